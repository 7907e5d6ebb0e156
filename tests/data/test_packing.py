"""Best-fit packing against a plain reference, and through the stage and the loader."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shard_child
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data import TokenLoader, shards
from llama3.data.packing import FILL_ID, best_fit, cut_by_concatenation
from llama3.model.batch import Batch
from llama3.tokenizer import Tokenizer

ROW = 384


def plainly_packed(lengths: list[int], row: int) -> list[list[tuple[int, int, int]]]:
    """Rows of (document, start, length), a piece at a time."""
    rows = [[(d, start, row)] for d, n in enumerate(lengths) for start in range(0, n // row * row, row)]
    full, room, since = len(rows), [], []
    rests = sorted(((n % row, d) for d, n in enumerate(lengths) if n % row), key=lambda rest: -rest[0])
    for turn, (length, d) in enumerate(rests, 1):
        fits = [(room[r], since[r], r) for r in range(len(room)) if room[r] >= length]
        if fits:
            _, _, r = min(fits)
        else:
            r = len(room)
            room.append(row)
            since.append(0)
            rows.append([])
        room[r] -= length
        since[r] = turn
        rows[full + r].append((d, lengths[d] // row * row, length))
    return rows


def plainly_cut(lengths: list[int], row: int) -> int:
    ends = [sum(lengths[: d + 1]) for d in range(len(lengths))]
    return sum(any(0 < at - (end - n) < n for at in range(0, end, row)) for end, n in zip(ends, lengths, strict=True))


@settings(deadline=None, max_examples=300)
@given(row=st.integers(1, 40), data=st.data())
def test_packing_is_the_plain_best_fit(row, data):
    lengths = data.draw(st.lists(st.integers(1, data.draw(st.sampled_from([3, row, 3 * row]))), max_size=60))
    packing = best_fit(np.array(lengths, np.int64), row)
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(packing.rows)]
    pieces = zip(packing.document_P, packing.start_P, packing.length_P, strict=True)
    for at, (d, start, length) in zip(packing.row_P, pieces, strict=True):
        rows[at].append((int(d), int(start), int(length)))
    assert rows == plainly_packed(lengths, row)
    assert packing.room_R.tolist() == [row - sum(length for _, _, length in some) for some in rows]
    assert packing.cut == sum(n > row for n in lengths) <= (cut := cut_by_concatenation(np.array(lengths), row))
    assert cut == plainly_cut(lengths, row)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    texts = tmp_path_factory.mktemp("texts")
    for source, (least, more) in {"books": (60, 25), "pages": (55, 2)}.items():
        (texts / source).mkdir()
        for seed in range(25):
            (texts / source / f"{seed:03d}.txt").write_text(prose(seed + 100 * more, least + more * seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_TOKENS", 2000)
        yield shard_child.run(tmp_path_factory.mktemp("run"), texts)


def whole_documents(path: Path, row: int) -> dict[str, dict[int, list[int]]]:
    """Source -> identity -> tokens, from every row of one pass, pieces put together again in the order of the file."""
    loader, found = TokenLoader(path, seq_len=row), {}
    windows = {(place.source, place.window): n for n, place in enumerate(map(loader.place, range(len(loader))))}
    for source, window in sorted(windows):
        rows = loader.rows(windows[source, window], 1)
        (bounds,) = rows.cu_seqlens
        for identity, (start, stop) in zip(rows.doc_ids.tolist(), pairwise(bounds.tolist()), strict=True):
            found.setdefault(source, {}).setdefault(identity, []).append(rows.tokens[0, start:stop].tolist())
    return {
        source: {identity: [t for piece in pieces for t in piece] for identity, pieces in documents.items()}
        for source, documents in found.items()
    }


def test_rows_of_packed_shards_hold_all_documents_and_cut_the_long_ones_alone(made, tmp_path):
    inputs = {"corpus": made["corpus"], "tokenizer": made["tokenizer"]}
    options = {"data": {"packing": "best_fit"}, "pretrain": {"seq_len": ROW}}
    with RunDir(tmp_path, Display.silent()) as run:
        packed = run.execute(shards.shard, inputs, shards.ShardOptions.of(Config.model_validate(options)))
    tokenizer = Tokenizer.load(made["tokenizer"].path)
    expected = whole_documents(made["shards"].path, 1)  # rows of one token: nothing is left out
    found = whole_documents(packed.path, ROW)
    cut = {}
    for source, documents in found.items():
        fill = documents.pop(FILL_ID, [])
        assert set(fill) <= {tokenizer.eos_id}
        facts = packed.metrics["packing"][source]
        lengths = [len(tokens) for tokens in expected[source].values()]
        cut[source] = sum(length > ROW for length in lengths)
        assert (facts["documents"], facts["cut"], facts["fill"]) == (len(lengths), cut[source], len(fill))
        assert facts["cut_before"] == plainly_cut(lengths, ROW)
        assert documents == expected[source]
    assert cut["books"] > 10
    assert cut["pages"] < packed.metrics["packing"]["pages"]["cut_before"]
    assert packed.metrics["bytes_per_token"] == made["shards"].metrics["bytes_per_token"]
    json.dumps(packed.metrics)


def test_nothing_is_learnt_from_what_fills_a_row(made, tmp_path):
    inputs = {"corpus": made["corpus"], "tokenizer": made["tokenizer"]}
    with RunDir(tmp_path, Display.silent()) as run:
        packed = run.execute(shards.shard, inputs, shards.ShardOptions(pack=ROW))
    loader = TokenLoader(packed.path, seq_len=ROW)
    filled = 0
    for number in range(len(loader)):
        rows = loader.rows(number, 1)
        batch = Batch.of_documents(rows.tokens.reshape(-1), rows.starts_D)
        fill = [int(start) for start, d in zip(rows.starts_D, rows.doc_ids, strict=True) if d == FILL_ID]
        assert not set(fill) & set(batch.targets_M.tolist())
        assert all(rows.positions[0, at] == 0 for at in fill)
        filled += len(fill)
    assert filled == sum(facts["fill"] for facts in packed.metrics["packing"].values()) > 0


def test_packed_shards_are_the_same_after_a_kill_at_any_write(made, tmp_path, monkeypatch):
    inputs = {"corpus": made["corpus"], "tokenizer": made["tokenizer"]}
    monkeypatch.setattr(shards, "SHARD_TOKENS", 500)
    monkeypatch.setattr("llama3.data.packed.BATCH_TOKENS", 300)
    options = shards.ShardOptions(pack=ROW)
    with RunDir(tmp_path / "whole", Display.silent()) as run:
        expected = run.execute(shards.shard, inputs, options).hash
    write, left = shards.SourceWriter.write_tokens, [3]

    def dying(self, *given):
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError("the process dies here")
        write(self, *given)

    monkeypatch.setattr(shards.SourceWriter, "write_tokens", dying)
    with RunDir(tmp_path / "killed", Display.silent()) as run:
        for writes in (3, 9):
            left[0] = writes
            with pytest.raises(ZeroDivisionError):
                run.execute(shards.shard, inputs, options)
        left[0] = 10_000
        assert run.execute(shards.shard, inputs, options).hash == expected


def test_token_files_are_not_packed():
    tokens = {"format": "megatron", "paths": ["a"]}
    with pytest.raises(ValidationError, match="token files keep the order"):
        Config.model_validate({"data": {"packing": "best_fit", "tokens": tokens}})
