"""The stage `shard` on a real corpus and a real tokenizer, and what the loader reads from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shard_child
from data_texts import prose

from llama3 import _core
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.data import TokenLoader, shards
from llama3.data.corpus import Corpus
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    for source, seeds in {"books": range(0, 30), "web pages": range(100, 120)}.items():
        (root / source).mkdir()
        for seed in seeds:
            (root / source / f"{seed:03d}.txt").write_text(prose(seed, 80 + seed % 7 * 30))
    return root


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", 2000)
        yield shard_child.run(tmp_path_factory.mktemp("run"), texts)


def stored_documents(folder: Path) -> dict[str, dict[str, list[int]]]:
    """Source -> identity prefix -> tokens, read back from the shards."""
    plan = TokenPlan.load(folder)
    stored: dict[str, dict[str, list[int]]] = {}
    for source in plan.sources:
        for path in plan.paths(source):
            shard = _core.Shard(path)
            for index in range(shard.documents):
                identity, tokens = shard.document(index)
                stored.setdefault(source.name, {})[f"{identity:016x}"] = tokens.tolist()
    return stored


def test_every_training_document_is_stored_once_between_bos_and_eos(made):
    tokenizer = Tokenizer.load(made["tokenizer"].path)
    expected: dict[str, dict[str, list[int]]] = {}
    for batch in Corpus(made["corpus"].path).documents("train"):
        for source, identity, text in zip(batch.column("source"), batch.column("id"), batch.texts, strict=True):
            tokens = tokenizer.encode(text, bos=True, eos=True).tolist()
            assert tokens[0] == tokenizer.bos_id
            assert tokens[-1] == tokenizer.eos_id
            expected.setdefault(source, {})[identity[:16]] = tokens
    stored = stored_documents(made["shards"].path)
    assert stored == expected
    assert set(stored) == {"books", "web pages"}
    held_out = [batch.column("id") for batch in Corpus(made["corpus"].path).documents("held_out")]
    assert not {identity[:16] for ids in held_out for identity in ids} & {i for s in stored.values() for i in s}


def test_the_plan_and_the_metrics_say_what_there_is(made):
    plan, metrics = TokenPlan.load(made["shards"].path), made["shards"].metrics
    tokenizer = Tokenizer.load(made["tokenizer"].path)
    assert (plan.tokenizer, plan.vocab_size) == (tokenizer.hash, tokenizer.vocab_size)
    stored = stored_documents(made["shards"].path)
    assert metrics["tokens"] == sum(len(tokens) for source in stored.values() for tokens in source.values())
    assert metrics["sources"]["books"]["documents"] == len(stored["books"])
    assert metrics["plan_hash"] == plan.hash
    text = sum(len(t.encode()) for batch in Corpus(made["corpus"].path).documents("train") for t in batch.texts)
    text_tokens = metrics["tokens"] - 2 * sum(len(source) for source in stored.values())
    assert metrics["bytes_per_token"] == pytest.approx(text / text_tokens)


def test_rows_decode_to_the_text_of_their_documents(made):
    tokenizer = Tokenizer.load(made["tokenizer"].path)
    texts = {
        identity[:16]: text
        for batch in Corpus(made["corpus"].path).documents("train")
        for identity, text in zip(batch.column("id"), batch.texts, strict=True)
    }
    loader = TokenLoader(made["shards"].path, seq_len=64, seed=5)
    rows = loader.rows(0, 30)
    segments = 0
    for r, bounds in enumerate(rows.cu_seqlens):
        ids = rows.doc_ids[rows.splits[r] : rows.splits[r + 1]]
        for identity, start, end in zip(ids, bounds[:-1], bounds[1:], strict=True):
            piece = tokenizer.decode_bytes(rows.tokens[r, start:end].astype(np.uint32), skip_special=True)
            assert piece in texts[f"{identity:016x}"].encode()
            segments += 1
    assert segments > 30


def test_a_mix_is_taken_from_the_options_and_checked(made, tmp_path):
    inputs = {"corpus": made["corpus"], "tokenizer": made["tokenizer"]}
    with RunDir(tmp_path, Display.silent()) as run:
        mixed = shards.ShardOptions(mix={"books": 3.0, "web pages": 1.0})
        artifact = run.execute(shards.shard, inputs, mixed)
        loader = TokenLoader(artifact.path, seq_len=32)
        assert sum(loader.place(row).source == "books" for row in range(100)) == 75
        with pytest.raises(ConfigError, match=r"'typo'.*books, web pages.*L3-DAT-202"):
            run.execute(shards.shard, inputs, shards.ShardOptions(mix={"typo": 1.0}))


def test_finished_shards_are_not_tokenised_again_after_a_kill(made, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1)
    monkeypatch.setattr(Corpus.documents, "__defaults__", ("train", None, 5))  # small batches: many shards
    inputs = {"corpus": made["corpus"], "tokenizer": made["tokenizer"]}
    encoded: list[int] = []
    encode_batch = Tokenizer.encode_batch

    def counting(self, batch, **options):
        encoded.append(len(batch))
        if len(encoded) == 5:
            raise ZeroDivisionError("the process dies here")
        return encode_batch(self, batch, **options)

    options = shards.ShardOptions()
    with RunDir(tmp_path / "whole", Display.silent()) as run:
        expected = run.execute(shards.shard, inputs, options).hash
    monkeypatch.setattr(Tokenizer, "encode_batch", counting)
    with RunDir(tmp_path / "killed", Display.silent()) as run:
        with pytest.raises(ZeroDivisionError):
            run.execute(shards.shard, inputs, options)
        before = sum(encoded[:4])
        artifact = run.execute(shards.shard, inputs, options)
        assert artifact.hash == expected
        total = sum(counts["documents"] for counts in artifact.metrics["sources"].values())
        assert sum(encoded[5:]) == total - before


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_while_curating_training_a_tokenizer_or_sharding(made, texts, tmp_path, seed):
    command = [sys.executable, shard_child.__file__, str(tmp_path), str(texts), str(seed), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {role: artifact.hash for role, artifact in made.items()}
