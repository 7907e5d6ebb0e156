"""Counting of keys in bounded memory, and line deduplication over buckets and languages, against brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
from data_texts import line_form, prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.config.curation import LineDedupSection
from llama3.data.corpus import Corpus
from llama3.data.counting import frequent_keys, keys_in, sorted_run
from llama3.data.documents import DocumentBatch
from llama3.data.thinning import LineBuckets

keys = st.lists(st.sampled_from([0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]) | st.integers(0, 2**64 - 1))


def written(folder: Path, parts: list[list[np.ndarray]], most: int) -> list[Path]:
    """The runs of some parts."""
    paths = [folder / f"{number}.lines" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        sorted_run(part, most).tofile(path)
    return paths


@settings(max_examples=150, deadline=None)
@given(st.lists(keys, max_size=12), st.integers(1, 4), st.integers(1, 30))
def test_equals_counting_in_memory(batches: list[list[int]], most: int, held: int) -> None:
    with TemporaryDirectory() as folder:
        runs = written(Path(folder), [[np.array(batch, np.uint64)] for batch in batches], most)
        counts = Counter(key for batch in batches for key in batch)
        expected = sorted(key for key, count in counts.items() if count > most)
        assert frequent_keys(runs, most, Path(folder) / "often", held) == len(expected)
        assert keys_in(Path(folder) / "often").tolist() == expected


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300,000 keys no more than twice the limit are sorted at a time, and a crowd of one key does not add up."""
    seen: list[int] = []
    count = _core.frequent_keys

    def counted(some: np.ndarray, most: int) -> np.ndarray:
        seen.append(len(some))
        return count(some, most)

    monkeypatch.setattr("llama3.data.counting._core", SimpleNamespace(frequent_keys=counted))
    draw = np.random.default_rng(1)
    some = [draw.integers(0, 2**64 - 1, 3000, np.uint64) for _ in range(100)]
    for keys in some:
        keys[:1500] = 7
    runs = written(tmp_path, [some[n : n + 4] for n in range(0, 100, 4)], 6)
    assert frequent_keys(runs, 6, tmp_path / "often", held=10_000) == 1
    assert keys_in(tmp_path / "often").tolist() == [7]
    assert len(seen) > 10
    assert max(seen) < 20_000


def brute_force(documents: list[tuple[str, str, str]], options: LineDedupSection, by_language: bool) -> list[str]:
    """The definition, with strings: (text, language, kind) in order."""
    place = [n // options.bucket_documents for n in range(len(documents))]
    languages = [language if by_language else "" for _, language, _ in documents]
    group = list(zip(place, languages, strict=True))
    counts: Counter[tuple[object, str]] = Counter()
    for key, (text, _, kind) in zip(group, documents, strict=True):
        if kind == "prose":
            counts.update((key, line_form(line)) for line in text.split("\n") if line_form(line))
    thinned = []
    for key, (text, _, kind) in zip(group, documents, strict=True):
        lines = text.splitlines(keepends=True)
        often = (kind == "prose" and counts[key, line_form(line)] > options.max_count for line in lines)
        thinned.append("".join(line for line, gone in zip(lines, often, strict=True) if not gone))
    return thinned


line = st.sampled_from(["Menu", "menu!", "MENU 7", "menu 8", "", "  ", "Home", "Ünï", "uni", "--", "x + y", "x y"])
document = st.tuples(
    st.lists(line, min_size=1, max_size=6).map("\n".join),
    st.sampled_from(["en", "de"]),
    st.sampled_from(["prose", "code"]),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(document, min_size=1, max_size=25),
    st.integers(1, 4),
    st.sampled_from([1, 3, 10, 100]),
    st.booleans(),
    st.sampled_from([1, 5, 1 << 20]),
)
def test_equals_brute_force(
    documents: list[tuple[str, str, str]], most: int, bucket: int, by_language: bool, held: int
) -> None:
    """Bit for bit, whatever is in memory at a time, and however the documents are shared out among parts."""
    texts, languages, kinds = zip(*documents, strict=True)
    options = LineDedupSection(max_count=most, bucket_documents=bucket)
    at = len(documents) // 2
    batches = [
        DocumentBatch.of(
            list(texts[part]), source="s", urls=["u"] * len(texts[part]), language=languages[part], kind=kinds[part]
        )
        for part in (slice(0, at), slice(at, None))
    ]
    with TemporaryDirectory() as folder:
        keys = [[LineBuckets(options, by_language, before).keys(b)] for before, b in zip((0, at), batches, strict=True)]
        often = Path(folder) / "often"
        frequent_keys(written(Path(folder), keys, most), most, often, held)
        found = [
            LineBuckets(options, by_language, before).thinned(batch, keys_in(often))
            for before, batch in zip((0, at), batches, strict=True)
        ]
    expected = brute_force(documents, options, by_language)
    assert [text for batch in found for text in batch.texts] == expected
    dropped = sum(sum(batch.column("lines_dropped")) for batch in found)
    assert dropped == sum(len(text.splitlines()) for text in texts) - sum(len(text.splitlines()) for text in expected)


def test_memory_changes_nothing_in_a_corpus(tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(30):
        lines = [prose(n, 60), "Menu" if n % 2 else "menu!", f"Page {n}", prose(100 + n % 4, 9)]
        (folder / f"{n:02}.txt").write_text("\n".join(lines))
    section = {"sources": [{"name": "files", "path": str(folder)}], "filters": []}
    (whole, out), read = curated(**section), lambda corpus: [t for batch in corpus.documents(None) for t in batch.texts]
    assert out.metrics["lines"] == {"frequent": 7, "dropped": 90}
    monkeypatch.setattr("llama3.data.staging.PORTION_BYTES", 500)
    monkeypatch.setattr("llama3.data.deciding.PORTION_BYTES", 500)
    monkeypatch.setattr("llama3.data.staging.GROUP_BYTES", 200)
    monkeypatch.setattr("llama3.data.counting.HELD", 7)
    parts, other = curated(**section)
    assert isinstance(parts, Corpus)
    assert read(parts) == read(whole)
    assert other.metrics == out.metrics
