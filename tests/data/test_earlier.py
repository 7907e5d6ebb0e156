"""Deduplication against corpora of earlier runs, as commands: what is found is what one run over everything finds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.cli.app import main
from llama3.data import Deduplicator
from llama3.data.bands import HEAD, MOST_MET, BandParameters, BandRun, write_run
from llama3.data.corpus import BANDS, Corpus, corpus_at
from llama3.data.dedup import Candidates
from llama3.errors import DataError
from llama3.testing.toys import toy_tokenizer


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `llama3 data ...`: what it prints, or where it is refused what it says."""

    def call(*arguments: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["data", *map(str, arguments)])
        told = capsys.readouterr()
        assert bool(caught.value.code) == bool(code), told
        return " ".join(told.err.split()) if code else told.out

    return call


def write(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True)
    for n, text in enumerate(texts):
        (folder / f"{n:03}.txt").write_text(text)
    return folder


def texts_of(place: Path) -> list[str]:
    return [text for batch in Corpus(corpus_at(place)).documents(None) for text in batch.texts]


def removed(place: Path) -> list[tuple[str, str, str]]:
    rows = Corpus(corpus_at(place)).rejects().to_pylist()
    return [(row["stage"], row["reason"], row["detail"]) for row in rows]


def edited(rng: random.Random, seed: int) -> str:
    words = prose(seed, 200).split()
    for _ in range(rng.choice([0, 1, 2, 4, 8, 12])):
        words.insert(rng.randrange(len(words)), f"new{rng.randrange(50)}")
    return " ".join(words)


def test_two_runs_keep_what_one_keeps(tmp_path: Path, run: Callable[..., str]) -> None:
    """Bit for bit: what the first keeps and what the second adds is what a run over all keeps, in order."""
    rng = random.Random(2)
    first, second = ([edited(rng, rng.randrange(12)) for _ in range(25)] for _ in range(2))
    second += [first[0], prose(90, 200)]
    old, new = write(tmp_path / "old", first), write(tmp_path / "new", second)
    run("dedup", old, "--out", tmp_path / "a")
    run("dedup", new, "--out", tmp_path / "b", "--against", tmp_path / "a")
    write(tmp_path / "all", first + second)
    run("dedup", tmp_path / "all", "--out", tmp_path / "c")
    assert texts_of(tmp_path / "a") + texts_of(tmp_path / "b") == texts_of(tmp_path / "c")
    assert prose(90, 200) in texts_of(tmp_path / "b")
    there = corpus_at(tmp_path / "a")
    ids = [id for batch in Corpus(there).documents(None) for id in batch.column("id")]
    kept = {f"of {id} in corpus {Artifact(there).hash[:12]}" for id in ids}
    earlier = [(stage, detail) for stage, reason, detail in removed(tmp_path / "b") if reason == "in_earlier_corpus"]
    assert {stage for stage, _ in earlier} == {"exact", "near"}
    assert {detail for _, detail in earlier} <= kept
    # A third run knows both, and adds nothing of what they have read.
    write(tmp_path / "again", [prose(91, 200), *second, *first])
    run("dedup", tmp_path / "again", "--out", tmp_path / "d", "--against", tmp_path / "a", "--against", tmp_path / "b")
    assert texts_of(tmp_path / "d") == [prose(91, 200)]


def test_nothing_new_is_an_empty_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, can be looked at and compared with, and nothing is trained on it."""
    texts = write(tmp_path / "texts", [prose(n) for n in range(4)])

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, words)))
        return int(caught.value.code or 0), *capsys.readouterr()

    first, second, third = (tmp_path / name for name in "abc")
    assert call("data", "dedup", texts, "--out", first)[0] == 0
    dedup = ["data", "dedup", texts, "--json", "--against", first]
    code, out, err = call(*dedup, "--out", second)
    metrics = json.loads(out)
    assert (code, metrics["rejects"]) == (0, {"exact.in_earlier_corpus": 4})
    assert (metrics["funnel"]["train"], metrics["funnel"]["held_out"], texts_of(second)) == ({}, {}, [])
    code, out, err = call(*dedup[:3], "--against", first, "--out", second)
    assert (code, "nothing is new" in err, "train" in out) == (0, True, True), err
    assert call("data", "inspect", second)[0] == call("data", "sample", second)[0] == 0
    assert call(*dedup, "--against", second, "--out", third)[0] == 0
    toy_tokenizer().save(tmp_path / "tokenizer")
    shards = ("data", "shard", second, "--tokenizer", tmp_path / "tokenizer", "--out", second)
    config = {"run": {"dir": str(tmp_path), "name": "run"}, "data": {"against": [str(first)]}}
    config["data"]["sources"] = [{"name": "files", "path": str(texts)}]  # type: ignore[assignment]
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    for words in (shards, ("run", tmp_path / "c.yaml")):
        code, _, err = call(*words)
        assert (code, "L3-DAT-207" in err, "leave data.against out" in err) == (1, True, True), err


def test_what_is_not_a_run_made_the_same_way_is_refused(tmp_path: Path, run: Callable[..., str]) -> None:
    folder = write(tmp_path / "in", [prose(n, 90) for n in range(4)])
    more = write(tmp_path / "more", [prose(50, 90)])
    run("dedup", folder, "--out", tmp_path / "same")
    run("dedup", folder, "--out", tmp_path / "other", "--threshold", "0.6")
    run("dedup", folder, "--out", tmp_path / "none", "--set", "data.minhash.enabled=false")
    places = [tmp_path / name for name in ("same", "other", "none", "nowhere")]
    against = [word for place in places for word in ("--against", str(place))]
    said = run("dedup", more, "--out", tmp_path / "out", *against, code=1)
    assert "bands 38, not 16, rows 5, not 7" in said
    for code in ("L3-DAT-133", "L3-DAT-132", "L3-DAT-231"):
        assert code in said
    assert not (tmp_path / "out" / "artifacts").exists()
    said = run("dedup", more, "--out", tmp_path / "out", *against[:2], "--set", "data.by_language=true", code=1)
    assert "by_language False, not True" in said
    # Exact duplicates need no keys.
    run("dedup", more, "--out", tmp_path / "exact", "--against", places[2], "--set", "data.minhash.enabled=false")
    assert texts_of(tmp_path / "exact") == [prose(50, 90)]
    bands = corpus_at(places[0]) / BANDS / "000000.run"
    bands.write_bytes(bands.read_bytes()[:-1])
    assert "L3-" in run("dedup", more, "--out", tmp_path / "out", *against[:2], code=1)


def test_an_earlier_corpus_is_part_of_what_a_corpus_is_made_of(tmp_path: Path, run: Callable[..., str]) -> None:
    folder = write(tmp_path / "in", [prose(n, 90) for n in range(4)])
    run("dedup", folder, "--out", tmp_path / "a")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "in", [prose(n, 90) for n in range(2, 7)])
    first = json.loads(run("dedup", tmp_path / "more", "--out", tmp_path / "b", "--against", tmp_path / "a", "--json"))
    assert first["rejects"] == {"exact.in_earlier_corpus": 2}
    assert first["near_duplicates"]["unsupported_removals"] == 0
    alone = json.loads(run("dedup", tmp_path / "more", "--out", tmp_path / "b", "--json"))
    assert alone["rejects"] == {}


keys = st.integers(0, 5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(keys, keys, keys), max_size=20), st.lists(st.tuples(keys, keys, keys), max_size=8))
def test_a_run_meets_what_shares_a_key(old: list[tuple[int, ...]], new: list[tuple[int, ...]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / BANDS
        write_run(path, np.array(old, np.uint64).reshape(-1, 3), BandParameters(5, 3, 8, False))
        run = BandRun(path)
        assert run.table().tolist() == [list(row) for row in old]
        for band in range(3):
            documents, shared = run.met(band, np.unique(np.array(new, np.uint64).reshape(-1, 3)[:, band]))
            expected = {(n, row[band]) for n, row in enumerate(old) if any(row[band] == other[band] for other in new)}
            assert set(zip(documents.tolist(), shared.tolist(), strict=True)) == expected
            assert len(documents) == len(expected)
            low, high = run.between(band, 0, 3), run.between(band, 3, 2**64)
            assert sorted(n for _, some in (low, high) for n in some.tolist()) == list(range(len(old)))
            assert all(key < 3 for key in low[0].tolist())


def test_a_crowded_key_meets_the_first_documents(tmp_path: Path) -> None:
    write_run(tmp_path / BANDS, np.full((100, 2), 9, np.uint64), BandParameters(5, 2, 8, False))
    rows, _ = BandRun(tmp_path / BANDS).met(0, np.array([9], np.uint64))
    assert rows.tolist() == list(range(MOST_MET))


@pytest.mark.parametrize("broken", [b"", b"no json" + b" " * HEAD, b"{}".ljust(HEAD), b"[]".ljust(HEAD)])
def test_broken_runs_are_named(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / BANDS).write_bytes(broken)
    with pytest.raises(DataError, match="L3-DAT-131"):
        BandRun(tmp_path / BANDS)
    with pytest.raises(DataError, match="L3-DAT-131"):
        BandRun(tmp_path / "nowhere")


def test_keys_are_those_of_the_family_that_runs_name() -> None:
    """Stored keys are compared with new ones: where this changes, FAMILY must be raised."""
    data = "One two three four five six, seven — ÉCOLE 漢字!".encode()
    keys = _core.minhash_keys(np.frombuffer(data, np.uint8), np.array([0, len(data)]), ngram=5, bands=14, rows=8)
    assert _core.blake3_bytes(keys.tobytes())[:16] == "11dc633942de7469"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 8))
def test_fixed_documents_stay(seed: int, fixed: int) -> None:
    rng = random.Random(seed)
    texts = [edited(rng, rng.randrange(3)) for _ in range(8)]
    finder = Deduplicator()
    finder.add(texts)
    column = finder._texts[0]
    keys, every = finder._keys[0], np.arange(len(texts))
    candidates = Candidates(every, np.zeros(len(texts), np.int64), np.ones(len(texts), np.int64))
    found = finder.settle(candidates, lambda rows: column.take(rows), lambda rows: keys[rows], fixed)
    assert not len(found.removed) or found.removed[0] >= fixed
    assert found.unsupported_removals == 0
    if not fixed:
        assert found.removed.tolist() == np.flatnonzero(~Deduplicator().find(texts).keep_D).tolist()
