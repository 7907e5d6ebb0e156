"""Deduplication against exact brute force, datasketch and the theory of MinHash."""

from __future__ import annotations

import multiprocessing
import random
import re
import unicodedata
from itertools import combinations
from typing import Any

import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.config.schema import Config
from llama3.data import Deduplicator
from llama3.data.curate import CurateOptions
from llama3.data.dedup import Candidates, recall
from llama3.data.documents import text_buffers
from llama3.errors import ConfigError, DataError


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    """The definition, with strings."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    if not words:
        return {(text.strip(),)}
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b)


def brute_force(texts: list[str], threshold: float) -> list[tuple[int, float]]:
    """Every document against every kept one before it: (the kept one it duplicates or -1, similarity)."""
    sets = [shingles(text) for text in texts]
    verdict: list[tuple[int, float]] = []
    for n, one in enumerate(sets):
        edges = ((kept, jaccard(one, sets[kept])) for kept in range(n) if verdict[kept][0] < 0)
        verdict.append(next(((kept, j) for kept, j in edges if j >= threshold), (-1, 0.0)))
    return verdict


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return text_buffers(pa.array(texts, pa.large_string()))


def edited(rng: random.Random, words: list[str], edits: int) -> list[str]:
    words = list(words)
    for _ in range(edits):
        at = rng.randrange(len(words))
        match rng.randrange(3):
            case 0:
                words[at] = f"new{rng.randrange(1000)}"
            case 1:
                words.insert(at, f"new{rng.randrange(1000)}")
            case _:
                del words[at]
    return words


def test_equals_brute_force_over_all_pairs() -> None:
    """Families of edited copies; no pair lies where the banding formula leaves much doubt (0.55 to 0.9)."""
    rng = random.Random(5)
    texts: list[str] = []
    for family in range(40):
        base = prose(family, 600).split()
        copies = [edited(rng, base, rng.choice([0, 1, 2, 3, 80, 110])) for _ in range(rng.randrange(5))]
        texts += [" ".join(words) for words in (base, *copies)]
    rng.shuffle(texts)
    sets = [shingles(text) for text in texts]
    similarities = [jaccard(a, b) for a, b in combinations(sets, 2)]
    assert not [j for j in similarities if 0.55 < j < 0.9]
    assert sum(j >= 0.9 for j in similarities) > 50
    found = Deduplicator().find(texts)
    expected = brute_force(texts, 0.8)
    assert found.duplicate_of_D.tolist() == [kept for kept, _ in expected]
    assert found.similarity_D.tolist() == [j for _, j in expected]
    assert found.keep_D.tolist() == [kept < 0 for kept, _ in expected]
    assert found.unsupported_removals == 0


def test_chains_remove_nothing_without_an_edge() -> None:
    """a~b and b~c but not a~c: c stays, because b, its only near document, is gone."""
    words = prose(1, 400).split()
    a, b, c = (" ".join(words[start : start + 300]) for start in (0, 25, 50))
    j = [jaccard(shingles(x), shingles(y)) for x, y in ((a, b), (b, c), (a, c))]
    assert j[0] >= 0.8
    assert j[1] >= 0.8
    assert j[2] < 0.8
    found = Deduplicator(bands=40, rows=3).find([a, b, c])
    assert found.duplicate_of_D.tolist() == [-1, 0, -1]
    assert found.cluster_D.tolist() == [0, 0, 2]


def test_a_word_inserted_in_front_is_found() -> None:
    """What sampling shingles by position cannot do."""
    texts = [prose(n, 600) for n in range(100)]
    moved = ["Inserted " + text for text in texts]
    found = Deduplicator().find(texts + moved)
    assert found.duplicate_of_D.tolist() == [-1] * 100 + list(range(100))


def test_adversarial_documents() -> None:
    base = [prose(n, 400) for n in range(8)]
    paragraphs = [base[0][:900], base[1][:900]]
    footer = " ".join(f"boilerplate{n}" for n in range(60))
    japanese = "漢字仮名交じり文を二つ並べて比べます。" * 2
    huge = " ".join(prose(n, 5000) for n in range(40))
    texts = [
        *("\n\n".join(order) for order in (paragraphs, paragraphs[::-1])),  # paragraphs swapped: found
        *(base[2], base[2][: len(base[2]) // 2]),  # truncated to half: similar by 0.5, kept
        *(base[3] + footer, base[4] + footer),  # a shared template: kept
        *("three short words", "Three short, words!", "three other words"),  # short: compared as a whole
        *("", " \n", "!!!", "???", "!!! "),  # no words at all: compared as text
        *(japanese, japanese + "了"),  # shingles of characters
        *("全く別の内容を持つ文章がここに書いてあります。", "ภาษาไทยไม่มีช่องว่างระหว่างคำในประโยค"),
        *(huge, "front " + huge),
    ]
    found = Deduplicator().find(texts)
    expected = brute_force(texts[:-6] + texts[-2:], 0.8)
    for n, (kept, _) in enumerate(expected[:-2]):
        assert found.duplicate_of_D[n] == kept, texts[n][:40]
    assert found.duplicate_of_D[[1, 3, 5, 7, 8, 10, 11, 12, 13]].tolist() == [0, -1, -1, 6, -1, 9, -1, -1, 11]
    assert found.duplicate_of_D[-6:].tolist() == [-1, 14, -1, -1, -1, 18]


def sets_of_similarity(j: float, size: int, trials: int, seed: int) -> tuple[list[str], float]:
    """Pairs of bags of single words with the same exact similarity (for ngram=1)."""
    shared = round(size * 2 * j / (1 + j))
    texts = []
    for trial in range(trials):
        word = (f"w{seed}x{trial}x{n}" for n in range(3 * size))
        both = [next(word) for _ in range(shared)]
        texts += [" ".join(both + [next(word) for _ in range(size - shared)]) for _ in range(2)]
    return texts, shared / (2 * size - shared)


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9])
def test_signatures_estimate_without_bias(similarity: float) -> None:
    """Against the truth, and no worse than datasketch on the same sets."""
    trials, hashes = 1500, 128
    texts, j = sets_of_similarity(similarity, 200, trials, 1)
    signatures = _core.minhash_signatures(*buffers(texts), ngram=1, hashes=hashes).reshape(trials, 2, hashes)
    estimates = (signatures[:, 0] == signatures[:, 1]).mean(1)
    sigma = (j * (1 - j) / hashes) ** 0.5
    assert abs(estimates.mean() - j) < max(0.002, 4 * sigma / trials**0.5)
    assert np.sqrt(((estimates - j) ** 2).mean()) < 1.05 * sigma
    few = 40
    pairs = zip(texts[: 2 * few : 2], texts[1 : 2 * few : 2], strict=True)
    theirs = np.array([_datasketch(one, hashes).jaccard(_datasketch(two, hashes)) for one, two in pairs])
    assert abs(theirs.mean() - estimates.mean()) < 4 * sigma / few**0.5 + 4 * sigma / trials**0.5


def _datasketch(text: str, hashes: int) -> datasketch.MinHash:
    minhash = datasketch.MinHash(num_perm=hashes, seed=1)
    minhash.update_batch([word.encode() for word in text.split()])
    return minhash


@pytest.mark.parametrize("similarity", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_candidates_appear_as_often_as_the_formula_says(similarity: float) -> None:
    trials, bands, rows = 1500, 14, 8
    texts, j = sets_of_similarity(similarity, 200, trials, 2)
    keys = _core.minhash_keys(*buffers(texts), ngram=1, bands=bands, rows=rows).reshape(trials, 2, bands)
    rate = (keys[:, 0] == keys[:, 1]).any(1).mean()
    expected = 1 - (1 - j**rows) ** bands
    assert abs(rate - expected) < 3.3 * (expected * (1 - expected) / trials) ** 0.5 + 1 / trials


def test_threads_change_nothing() -> None:
    rng = random.Random(3)
    texts = [" ".join(edited(rng, prose(n % 30, 80).split(), rng.randrange(12))) for n in range(300)]
    before = _core.num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            _core.set_num_threads(threads)
            found = Deduplicator().find(texts)
            keys = _core.line_keys(*buffers(texts), np.zeros(len(texts), np.int64))
            results.append((found.duplicate_of_D, found.similarity_D, keys, _core.analyse(*buffers(texts))[0]))
    finally:
        _core.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_added_in_parts_or_at_once() -> None:
    texts = [prose(n % 6, 60) for n in range(12)]
    parts = Deduplicator()
    parts.add(texts[:5])
    parts.add(iter(texts[5:7]))
    parts.add(pa.array([], pa.string()))
    parts.add(pa.array(["sliced away", *texts[7:]])[1:])
    assert len(parts) == 12
    assert parts.find().duplicate_of_D.tolist() == Deduplicator().find(texts).duplicate_of_D.tolist()
    assert parts.find().keep_D.tolist() == [True] * 6 + [False] * 6


def test_nothing_to_do() -> None:
    found = Deduplicator().find([])
    assert (found.keep_D.tolist(), found.candidates, found.largest_cluster) == ([], 0, 0)
    assert Deduplicator().find().unsupported_removals == 0
    assert Deduplicator().find(["one text alone"]).keep_D.tolist() == [True]


words = st.lists(st.sampled_from("abcdefg"), max_size=14).map(" ".join)


@settings(max_examples=150)
@given(st.lists(words | st.text(max_size=12), max_size=14), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_invariants(texts: list[str], threshold: float) -> None:
    found = Deduplicator(threshold=threshold, ngram=2, bands=20, rows=2).find(texts)
    assert found.unsupported_removals == 0
    assert (found.similarity_D[~found.keep_D] >= threshold).all()
    assert (found.duplicate_of_D[~found.keep_D] < np.flatnonzero(~found.keep_D)).all()  # survivors come first
    assert found.cluster_D[found.keep_D].tolist() == np.flatnonzero(found.keep_D).tolist()
    # Equal texts never both stay, and what stays would stay again.
    kept = [text for text, keep in zip(texts, found.keep_D, strict=True) if keep]
    assert len(set(kept)) == len(kept)
    assert Deduplicator(threshold=threshold, ngram=2, bands=20, rows=2).find(kept).keep_D.all()


# -- which pairs are found -------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.79, 0.7, 0.6, 0.5, 0.3, 0.1])
def test_pairs_above_any_threshold_are_found(threshold: float) -> None:
    """Against the share that the banding promises, and datasketch's own choice for the threshold."""
    pairs = 200
    texts, j = sets_of_similarity(threshold, 200, pairs, 3)
    if j < threshold:
        texts, j = sets_of_similarity(threshold + 0.01, 200, pairs, 3)
    finder = Deduplicator(threshold=threshold, ngram=1)
    found = int((~finder.find(texts).keep_D).sum())
    assert recall(threshold, finder.bands, finder.rows) > 0.92
    assert found >= 0.92 * pairs - 3.3 * (0.92 * 0.08 * pairs) ** 0.5
    theirs = datasketch.MinHashLSH(threshold=threshold, num_perm=128)
    assert recall(j, finder.bands, finder.rows) >= 0.95 * recall(j, theirs.b, theirs.r)
    none, _ = sets_of_similarity(threshold - 0.05, 200, pairs, 4)
    assert Deduplicator(threshold=threshold, ngram=1).find(none).keep_D.all()


def test_bands_and_rows_that_miss_most_are_refused() -> None:
    assert (Deduplicator().bands, Deduplicator().rows) == (16, 7)
    assert Deduplicator(threshold=0.5, bands=20).rows == 2
    assert Deduplicator(threshold=0.5, rows=4).bands == 47
    assert Deduplicator(threshold=0.01).bands == 256  # finds 92 %: the most that is offered
    for options in ({"threshold": 0.5, "bands": 14, "rows": 8}, {"threshold": 0.3, "rows": 8}):
        with pytest.raises(ConfigError, match=r"L3-DAT-114"):
            Deduplicator(**options)
    with pytest.raises(ConfigError, match=r"\(23 x 3\).*L3-DAT-114"):
        Deduplicator(threshold=0.5, bands=14, rows=8)
    with pytest.raises(ConfigError, match=r"raise that.*L3-DAT-114"):
        Deduplicator(threshold=0.001)
    config = Config.model_validate({"data": {"minhash": {"threshold": 0.5, "bands": 14, "rows": 8}}})
    with pytest.raises(ConfigError, match="L3-DAT-114"):
        CurateOptions.of(config)


def test_how_a_text_is_written_does_not_matter() -> None:
    text = "Hà Nội là thủ đô của nước Việt Nam và là một thành phố lớn nằm ở phía bắc với lịch sử hơn nghìn năm " * 4
    english = prose(1, 60)
    hidden = english.replace("e", "\u00ade").replace("o", "o\u200b")
    korean = "한국어 문장도 같은 방법으로 비교되어야 한다 그리고 조금 더 길어야 한다"
    for one, other in (
        (text, unicodedata.normalize("NFD", text) + "thêm"),
        (english, hidden),
        (korean, unicodedata.normalize("NFD", korean)),
        (english, "\ufeff" + english),
    ):
        assert Deduplicator().find([one, other]).keep_D.tolist() == [True, False], one[:20]
    assert Deduplicator().find(["resume the work", "résumé the work"]).keep_D.all()


# -- what is taken for texts -----------------------------------------------------------------------

TEXTS = ["a text", "A text!", "another text"]


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.concat_tables([pa.table({"t": TEXTS[:2]}), pa.table({"t": TEXTS[2:]})])["t"],
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([pa.array(TEXTS[:1]).dictionary_encode(), pa.array(TEXTS[1:]).dictionary_encode()]),
        pa.array(TEXTS, pa.string_view()),
        pa.array([text.encode() for text in TEXTS]),
        pa.array([text.encode() for text in TEXTS], pa.binary_view()),
        pc.run_end_encode(pa.array(TEXTS)),
        pa.array(["sliced away", *TEXTS])[1:],
        np.array(TEXTS),
        tuple(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        (text for text in TEXTS),
        [text.encode() for text in TEXTS],
    ],
    ids=lambda column: type(column).__name__,
)
def test_texts_in_any_layout(column: Any) -> None:
    assert Deduplicator().find(column).keep_D.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("abc abc", "a str given"),
        (b"abc", "a bytes given"),
        ({"a": "x"}, "a dict given"),
        (pa.table({"t": TEXTS}), "a Table given"),
        (5, "a int given"),
        (pa.array([1, 2]), "a column of int64"),
        (["a", None], "text 1 is no text. it is a NoneType"),
        ([1, 2], "text 0 is no text. it is a int"),
        (pa.array(["a", None]), "text 1 is no text. it is null"),
        (["a", "b\ud800"], "text 1 is no text. it holds half"),
        (pa.array([b"\xff"]), "not all UTF-8"),
    ],
    ids=str,
)
def test_what_is_no_text_is_named(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        Deduplicator().find(given)


def test_candidates_are_settled_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of candidates need not fit into memory, and the portions change nothing."""
    rng = random.Random(8)
    texts = [" ".join(edited(rng, prose(n % 25, 80).split(), rng.randrange(4))) for n in range(200)]
    whole = Deduplicator().find(texts)
    column = pa.array(texts, pa.large_string())
    sizes = np.array([len(text) for text in texts])
    monkeypatch.setattr("llama3.data.dedup.CANDIDATE_BYTES", 20_000)
    fetched: list[int] = []

    def fetch(rows: np.ndarray) -> pa.Array:
        assert (np.diff(rows) > 0).all()
        fetched.append(int(sizes[rows].sum()))
        return column.take(pa.array(rows))

    finder = Deduplicator()
    keys = finder.keys(*buffers(texts))
    ties = _core.DuplicateGroups(len(texts))
    for band in range(finder.bands):
        ties.add(np.ascontiguousarray(keys[:, band]), np.arange(len(texts), dtype=np.uint32))
    rows, group = ties.groups()
    assert len(rows) == whole.candidates
    parts = finder.settle(Candidates(rows, group, sizes[rows]), fetch, lambda rows: keys[rows])
    assert len(fetched) > 3
    assert max(fetched) <= 20_000
    np.testing.assert_array_equal(parts.removed, np.flatnonzero(~whole.keep_D))
    np.testing.assert_array_equal(parts.by, whole.duplicate_of_D[parts.removed])
    np.testing.assert_array_equal(parts.similarity, whole.similarity_D[parts.removed])
    assert parts.comparisons == whole.comparisons
    assert (parts.unsupported_removals, parts.largest_cluster) == (0, whole.largest_cluster)


def test_arguments_are_checked() -> None:
    for options in (
        {"threshold": 0.0},
        {"threshold": 1.5},
        {"threshold": "0.8"},
        {"threshold": float("nan")},
        {"ngram": 0},
        {"ngram": 2.5},
        {"bands": 0},
        {"rows": -1},
        {"bands": 1 << 15, "rows": 8},
    ):
        with pytest.raises(ConfigError, match="L3-DAT-100"):
            Deduplicator(**options)
    data, offsets = buffers(["one", "two"])
    keys = _core.minhash_keys(data, offsets, ngram=5, bands=3, rows=2)
    for wrong in (offsets[::-1].copy(), offsets + 5, np.empty(0, np.int64)):
        with pytest.raises(ValueError, match="offset"):
            _core.text_ids(data, wrong)
    with pytest.raises(ValueError, match="document 1 is not valid UTF-8"):
        _core.analyse(np.frombuffer(b"ok\xff", np.uint8), np.array([0, 2, 3]))
    with pytest.raises(ValueError, match="2 documents but 1 rows"):
        _core.near_duplicates(data, offsets, keys[:1], ngram=5, threshold=0.8)
    with pytest.raises(ValueError, match="threshold"):
        _core.near_duplicates(data, offsets, keys, ngram=5, threshold=float("nan"))
    with pytest.raises(ValueError, match="at least 1"):
        _core.minhash_keys(data, offsets, ngram=5, bands=0, rows=2)
    with pytest.raises(ValueError, match="at most"):
        _core.minhash_keys(data, offsets, ngram=5, bands=2**62, rows=8)
    with pytest.raises(ValueError, match="ascending"):
        _core.drop_lines(data, offsets, np.zeros(2, np.int64), np.array([2, 1], np.uint64))
    with pytest.raises(ValueError, match="2 documents but 1 buckets"):
        _core.drop_lines(data, offsets, np.zeros(1, np.int64), np.array([], np.uint64))
    with pytest.raises(ValueError, match="2 documents but 3 buckets"):
        _core.line_keys(data, offsets, np.zeros(3, np.int64))
    with pytest.raises(TypeError):
        _core.text_ids(data.astype(np.int8), offsets)


def _keep_in_child(texts: list[str]) -> list[bool]:
    return Deduplicator().find(texts).keep_D.tolist()


def test_works_after_a_fork() -> None:
    texts = [prose(n % 20, 60) for n in range(40)]
    expected = _keep_in_child(texts)  # the pool exists in the parent
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(_keep_in_child, (texts,)) for _ in range(4)]
        assert [result.get(timeout=60) for result in results] == [expected] * 4
