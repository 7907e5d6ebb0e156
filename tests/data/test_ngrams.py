"""N-grams of token shards against Python dictionaries, on any number of threads; canaries in the shards of a run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import shard_child
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from token_plans import make_plan

from llama3 import _core
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.config import load as load_config
from llama3.data import shards
from llama3.data.canaries import make_canaries, read_canaries
from llama3.data.corpus import Corpus
from llama3.data.ngrams import count_ngrams, draw_runs
from llama3.data.plan import TokenPlan
from llama3.errors import ConfigError, DataError
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """(a plan of few different tokens, its documents by source)."""
    return make_plan(tmp_path_factory.mktemp("plan"), sources=2, vocab_size=5)


def brute(content, n):
    """Every n-gram of every document with its count."""
    documents = [tokens for documents in content.values() for _, tokens in documents]
    return Counter(tuple(tokens[i : i + n]) for tokens in documents for i in range(len(tokens) - n + 1))


@settings(max_examples=30)
@given(n=st.integers(1, 6), threads=st.sampled_from([1, 2, 3]), data=st.data())
def test_counts_are_those_of_a_dictionary(plan, n, threads, data):
    found, content = plan
    asked = data.draw(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), max_size=12))
    expected = brute(content, n)
    _core.set_num_threads(threads)
    try:
        counts = count_ngrams(found, np.array(asked, np.uint32).reshape(-1, 6), n)
    finally:
        _core.set_num_threads(0)
    assert counts.tolist() == [[expected[tuple(row[at : at + n])] for at in range(7 - n)] for row in asked]


def test_what_occurs_often_is_drawn_often(plan):
    found, content = plan
    inner = {name: [(i, tokens[1:-1]) for i, tokens in documents] for name, documents in content.items()}
    expected = brute(inner, 2)
    everything = draw_runs(found, 2, 10**6, seed=3)
    assert Counter(map(tuple, everything.tokens.tolist())) == expected
    assert len(set(everything.ids)) == expected.total()
    assert Counter(everything.sources) == {name: brute({name: inner[name]}, 2).total() for name in content}
    some = draw_runs(found, 2, 100, seed=4)
    assert set(some.ids) < set(everything.ids)
    assert len(set(some.ids)) == 100
    assert some.ids != draw_runs(found, 2, 100, seed=5).ids
    assert some.ids == draw_runs(found, 2, 100, seed=4).ids


def test_bad_requests_and_damaged_shards_are_refused(tmp_path):
    plan, _ = make_plan(tmp_path / "plan", sources=1)
    for length, n in ((0, 0), (3, 0), (3, 4), (1 << 17, 3), (3, -1)):
        with pytest.raises(DataError, match="L3-DAT-204"):
            count_ngrams(plan, np.zeros((1, length), np.uint32), n)
    with pytest.raises(DataError, match="L3-DAT-204"):
        draw_runs(plan, 10**5, 1, seed=0)
    (path, *_) = plan.paths(plan.sources[0])
    with open(path, "r+b") as file:
        file.seek(4100)
        file.write(b"\xff\xff")
    with pytest.raises(DataError, match="L3-DAT-203"):
        count_ngrams(plan, np.zeros((1, 2), np.uint32), 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose shards hold canaries: (its config, its artifacts by role)."""
    root = tmp_path_factory.mktemp("texts")
    for source, seeds in {"large": range(30), "small": range(100, 110)}.items():
        (root / source).mkdir()
        for seed in seeds:
            (root / source / f"{seed}.txt").write_text(prose(seed, 100))
    data = shard_child.config(root).data.model_dump(mode="json")
    config = load_config({"data": {**data, "canaries": {"count": 3, "copies": [1, 7]}}, "run": {"seed": 5}}).config
    with RunDir(tmp_path_factory.mktemp("run"), Display.silent()) as run:
        corpus = run.execute(shard_child.curate, {}, shard_child.CurateOptions.of(config))
        tokenizer = run.execute(shard_child.train_tokenizer, {"corpus": corpus})
        inputs = {"corpus": corpus, "tokenizer": tokenizer}
        with_canaries = run.execute(shards.shard, inputs, shards.ShardOptions.of(config))
        without = run.execute(shards.shard, inputs, shards.ShardOptions())
    return config, {**inputs, "with": with_canaries, "without": without}


def test_canaries_are_in_the_shards_as_often_as_is_written_beside_them(made):
    config, artifacts = made
    plan, tokenizer = TokenPlan.load(artifacts["with"].path), Tokenizer.load(artifacts["tokenizer"].path)
    canaries = read_canaries(artifacts["with"].path)
    assert canaries == make_canaries(config.data.canaries, 5)
    assert Counter(canary.copies for canary in canaries) == {0: 3, 1: 3, 7: 3}
    assert len({canary.prefix for canary in canaries}) == 9
    for canary in canaries:
        ids = tokenizer.encode(canary.text, bos=True, eos=True)
        assert count_ngrams(plan, ids[None], len(ids)).tolist() == [[canary.copies]]
    metrics = artifacts["with"].metrics
    assert metrics["canaries"] == {"source": "large", "seed": 5, "count": 3, "copies": [1, 7]}
    # All that was there is still there, and what is counted counts them.
    bare = artifacts["without"].metrics
    assert metrics["sources"]["small"] == bare["sources"]["small"]
    assert metrics["sources"]["large"]["documents"] == bare["sources"]["large"]["documents"] + 24
    documents = [text for batch in Corpus(artifacts["corpus"].path).documents("train") for text in batch.texts]
    for text in documents[:5]:
        ids = tokenizer.encode(text, bos=True, eos=True)
        assert count_ngrams(plan, ids[None], len(ids)).tolist() == [[1]]
    assert "canaries" not in bare
    with pytest.raises(DataError, match="L3-DAT-209"):
        read_canaries(artifacts["without"].path)


@pytest.mark.parametrize("copies", [[], [0, 1], [2, 2]])
def test_copies_are_different_numbers(copies):
    with pytest.raises(ConfigError, match="copies"):
        load_config({"data": {"canaries": {"copies": copies}}})
