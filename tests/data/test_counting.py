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
from llama3.data.counting import KeyCounter
from llama3.data.documents import DocumentBatch, ShardRef
from llama3.data.staging import Staged
from llama3.data.thinning import Thinning

keys = st.lists(st.sampled_from([0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]) | st.integers(0, 2**64 - 1))


@settings(max_examples=150, deadline=None)
@given(st.lists(keys, max_size=12), st.integers(1, 4), st.integers(1, 30))
def test_equals_counting_in_memory(batches: list[list[int]], most: int, held: int) -> None:
    with TemporaryDirectory() as folder:
        counter = KeyCounter(Path(folder), most, held)
        for batch in batches:
            counter.add(np.array(batch, np.uint64))
        counts = Counter(key for batch in batches for key in batch)
        assert counter.frequent().tolist() == sorted(key for key, count in counts.items() if count > most)


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300,000 keys no more than twice the limit are sorted at a time, and a crowd of one key does not add up."""
    seen: list[int] = []
    count = _core.frequent_keys

    def counted(some: np.ndarray, most: int) -> np.ndarray:
        seen.append(len(some))
        return count(some, most)

    monkeypatch.setattr("llama3.data.counting._core", SimpleNamespace(frequent_keys=counted))
    draw = np.random.default_rng(1)
    counter = KeyCounter(tmp_path, 6, held=10_000)
    for _ in range(100):
        some = draw.integers(0, 2**64 - 1, 3000, np.uint64)
        some[:1500] = 7
        counter.add(some)
    assert counter.frequent().tolist() == [7]
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
    """Bit for bit, whatever is in memory at a time."""
    texts, languages, kinds = zip(*documents, strict=True)
    options = LineDedupSection(max_count=most, bucket_documents=bucket)
    with TemporaryDirectory() as folder:
        staged = Staged(Path(folder), None)
        at = len(documents) // 2
        for part in (slice(0, at), slice(at, None)):
            some = DocumentBatch.of(
                list(texts[part]), source="s", urls=["u"] * len(texts[part]), language=languages[part], kind=kinds[part]
            )
            staged.add(iter([some]), ShardRef("s", "here"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llama3.data.thinning.HELD", held)
            thinning = Thinning(staged, np.ones(len(documents), bool), options, by_language)
        found = [text for batch in thinning.documents() for text in batch.texts]
        expected = brute_force(documents, options, by_language)
        assert found == expected
        assert thinning.dropped == sum(len(text.splitlines()) for text in texts) - sum(
            len(text.splitlines()) for text in expected
        )


def test_memory_changes_nothing_in_a_corpus(tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(30):
        lines = [prose(n, 60), "Menu" if n % 2 else "menu!", f"Page {n}", prose(100 + n % 4, 9)]
        (folder / f"{n:02}.txt").write_text("\n".join(lines))
    section = {"sources": [{"name": "files", "path": str(folder)}], "filters": []}
    (whole, out), read = curated(**section), lambda corpus: [t for batch in corpus.documents(None) for t in batch.texts]
    assert out.metrics["lines"] == {"frequent": 7, "dropped": 90}
    monkeypatch.setattr("llama3.data.thinning.HELD", 7)
    parts, other = curated(**section)
    assert isinstance(parts, Corpus)
    assert read(parts) == read(whole)
    assert other.metrics == out.metrics
