"""Finding duplicates among texts: exact ones, and near ones by MinHash, banding and exact verification.

Letters: D documents, B bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data.columns import text_column
from llama3.data.documents import text_buffers
from llama3.errors import ConfigError

OUT_OF_BOUNDS = ConfigError.declare(
    "L3-DAT-100",
    "threshold={threshold}, ngram={ngram}, bands={bands}, rows={rows} cannot be used",
    why="the threshold must be above 0 and at most 1, the others whole numbers from 1 on, bands x rows at most 65536",
)
WOULD_MISS = ConfigError.declare(
    "L3-DAT-114",
    "bands={bands}, rows={rows} find {recall} of the pairs at threshold={threshold}",
    fix="leave bands and rows out, so that they are chosen for the threshold{chosen}",
)

RECALL = 0.95
"""Of the pairs just at the threshold, where bands and rows are chosen."""
LEAST_RECALL = 0.5
"""Where they are given."""
MOST_BANDS = 256
"""8 bytes per document each. Below a threshold of 0.012 more would be needed."""
FEW_BANDS = 40
HIGH = (0.8, 16, 7)
"""From this threshold on: of the pairs at 0.8 98 % are found (1 - (1 - 0.8^7)^16). The usual 14 x 8 hashes find 92 %,
and spare comparisons that cost little."""
CANDIDATE_BYTES = 256 << 20
"""Text that is compared at a time; a group of documents that hang together is never cut."""


def banding(threshold: float, bands: int | None = None, rows: int | None = None) -> tuple[int, int]:
    """Bands and rows for a threshold; what is given stays. As many rows as few bands allow, for more rows mean fewer
    comparisons in vain. Raises ConfigError (L3-DAT-114) where no number of bands finds enough."""
    if bands is None and rows is None and threshold >= HIGH[0]:
        return HIGH[1:]
    for some in (rows,) if rows else range(HIGH[2], 0, -1):
        needed = _bands_for(threshold, some)
        if needed <= (bands or (MOST_BANDS if rows or some == 1 else FEW_BANDS)):
            return bands or needed, some
    return bands or MOST_BANDS, rows or 1  # the best there is: whether it is good enough is judged where it is used


def _bands_for(threshold: float, rows: int) -> int:
    alike = threshold**rows
    return 1 if alike >= 1 else math.ceil(math.log(1 - RECALL) / math.log1p(-alike)) if alike > 1e-9 else 1 << 30


def recall(threshold: float, bands: int, rows: int) -> float:
    """Share of the pairs just as similar as `threshold` that share a band."""
    return 1 - (1 - threshold**rows) ** bands


@dataclass(frozen=True)
class Duplicates:
    """What is a duplicate of what. Every document that goes has a verified edge to one that stays."""

    keep_D: np.ndarray
    """bool: the document stays."""
    duplicate_of_D: np.ndarray
    """int64: the kept document that it duplicates (the earliest one found), -1 where it stays."""
    similarity_D: np.ndarray
    """float64: exact Jaccard similarity to that document, 0 where it stays."""
    candidates: int
    """Documents that shared a band with another."""
    comparisons: int
    """Exact comparisons made."""
    full_buckets: int
    """Buckets with more distinct documents than are compared (64): only there recall is below the formula's."""

    @property
    def cluster_D(self) -> np.ndarray:
        """int64: the kept document of each one's cluster (its own number where it stays)."""
        return np.where(self.keep_D, np.arange(len(self.keep_D)), self.duplicate_of_D)

    @property
    def unsupported_removals(self) -> int:
        """Documents removed on account of one that is gone itself. 0 by construction; counted, not assumed."""
        return int((~self.keep_D[self.duplicate_of_D[~self.keep_D]]).sum())

    @property
    def largest_cluster(self) -> int:
        """Documents of the largest cluster: a template gone wild shows here."""
        return int(np.bincount(self.cluster_D).max(initial=0))


@dataclass(frozen=True)
class Candidates:
    """Documents that share a band with another: their numbers, ascending, and of each the first one that shared bands
    tie it to, and the bytes of its text."""

    rows: np.ndarray
    group: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True)
class Settled:
    """Documents that go, ascending, and of each the one that it duplicates, which stays, with the exact Jaccard
    similarity of both; exact comparisons made, and buckets that were full."""

    removed: np.ndarray
    by: np.ndarray
    similarity: np.ndarray
    comparisons: int
    full_buckets: int

    @classmethod
    def all(cls, some: Sequence[Settled]) -> Settled:
        """Those of several portions."""
        removed = np.concatenate([np.empty(0, np.int64), *(one.removed for one in some)])
        by = np.concatenate([np.empty(0, np.int64), *(one.by for one in some)])
        similarity = np.concatenate([np.empty(0), *(one.similarity for one in some)])
        order = np.argsort(removed)
        counts = (sum(one.comparisons for one in some), sum(one.full_buckets for one in some))
        return cls(removed[order], by[order], similarity[order], *counts)

    @property
    def unsupported_removals(self) -> int:
        """Documents removed on account of one that is gone itself. 0 by construction; counted, not assumed."""
        return int(np.isin(self.by, self.removed).sum())

    @property
    def largest_cluster(self) -> int:
        """Documents of the largest cluster, 1 where nothing went: a template gone wild shows here."""
        return int(np.unique(self.by, return_counts=True)[1].max(initial=0)) + 1


class Deduplicator:
    """Near-duplicate texts, two documents being duplicates when the Jaccard similarity of their word n-grams is at
    least `threshold`. Candidates are found with 1 - (1 - J^rows)^bands; no false positive survives verification.
    `bands` and `rows` are chosen for the threshold where they are not given.

    Words are compared without case, punctuation and signs that are not seen, in one Unicode form; in scripts without
    spaces every character is a word. Texts shorter than `ngram` words are compared as a whole. The result depends on
    the order of the texts only.

    >>> found = Deduplicator().find(["a text", "A text!", "another text"])
    >>> found.keep_D.tolist(), found.duplicate_of_D.tolist()
    ([True, False, True], [-1, 0, -1])
    """

    def __init__(
        self, *, threshold: float = 0.8, ngram: int = 5, bands: int | None = None, rows: int | None = None
    ) -> None:
        self.threshold, self.ngram = threshold, ngram
        in_bounds = _in_bounds(threshold, ngram, bands, rows)
        self.bands, self.rows = banding(threshold, bands, rows) if in_bounds else (0, 0)
        if not in_bounds or self.bands * self.rows > MOST_HASHES:
            raise OUT_OF_BOUNDS("Deduplicator", threshold=threshold, ngram=ngram, bands=bands, rows=rows)
        if (found := recall(threshold, self.bands, self.rows)) < LEAST_RECALL:
            best = banding(threshold)
            enough = recall(threshold, *best) >= LEAST_RECALL
            raise WOULD_MISS(
                "Deduplicator",
                threshold=threshold,
                bands=self.bands,
                rows=self.rows,
                recall=f"{found:.1%}",
                chosen=f" ({best[0]} x {best[1]})" if enough else ", and raise that",
            )
        self._texts: list[pa.Array] = []
        self._keys: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._texts))

    def add(self, texts: Iterable[str] | pa.Array | pa.ChunkedArray) -> None:
        """Takes up more texts; they are numbered on from those before. Keeps the text and 8 bytes per band.

        Raises DataError (L3-DAT-111, L3-DAT-112) for what is no text."""
        array = text_column(texts)
        self._keys.append(self.keys(*text_buffers(array)))
        self._texts.append(array)

    def find(self, texts: Iterable[str] | pa.Array | pa.ChunkedArray | None = None) -> Duplicates:
        """Duplicates among all texts added so far, `texts` included."""
        if texts is not None:
            self.add(texts)
        keys_DB = np.concatenate([np.empty((0, self.bands), np.uint64), *self._keys])
        chunks = pa.chunked_array(self._texts, pa.large_string())
        group_D = _core.duplicate_groups(keys_DB)
        rows = np.flatnonzero(group_D >= 0)
        bytes_D = np.concatenate([np.empty(0, np.int64), *(np.diff(text_buffers(text)[1]) for text in self._texts)])
        found = self.settle(
            Candidates(rows, group_D[rows], bytes_D[rows]),
            lambda some: chunks.take(pa.array(some)).combine_chunks(),
            lambda some: keys_DB[some],
        )
        duplicate_of_D = np.full(len(keys_DB), -1, np.int64)
        similarity_D = np.zeros(len(keys_DB))
        duplicate_of_D[found.removed], similarity_D[found.removed] = found.by, found.similarity
        keep_D = duplicate_of_D < 0
        return Duplicates(keep_D, duplicate_of_D, similarity_D, len(rows), found.comparisons, found.full_buckets)

    def keys(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Band keys of documents in one buffer, uint64 [D, B]."""
        return _core.minhash_keys(data, offsets, ngram=self.ngram, bands=self.bands, rows=self.rows)

    def settle(
        self,
        candidates: Candidates,
        texts: Callable[[np.ndarray], pa.Array],
        keys: Callable[[np.ndarray], np.ndarray],
        fixed: int = 0,
    ) -> Settled:
        """Verifies and decides. Documents whose numbers are below `fixed` stay, whatever they resemble.

        `texts` and `keys` (uint64 [some, B]) return those of the documents with the given numbers, ascending: only of
        candidates, and only of some at a time, so that a corpus need not be in memory."""
        settled: list[Settled] = []
        for rows in _some_at_a_time(candidates):
            duplicate_of, similarity, comparisons, full_buckets = _core.near_duplicates(
                *text_buffers(text_column(texts(rows))),
                np.ascontiguousarray(keys(rows)),
                ngram=self.ngram,
                threshold=self.threshold,
                fixed=int(np.searchsorted(rows, fixed)),
            )
            gone = duplicate_of >= 0
            found = rows[gone], rows[duplicate_of[gone]], similarity[gone]
            settled.append(Settled(*found, comparisons, full_buckets))
        return Settled.all(settled)


MOST_HASHES = 1 << 16


def _in_bounds(threshold: object, ngram: object, bands: object, rows: object) -> bool:
    numbers = isinstance(threshold, int | float) and all(
        isinstance(value, int | np.integer) and value >= 1 for value in (ngram, bands or 1, rows or 1)
    )
    return numbers and bands != 0 and rows != 0 and 0 < threshold <= 1  # type: ignore[operator]


def _some_at_a_time(candidates: Candidates) -> Iterator[np.ndarray]:
    """The candidates in ascending portions of whole groups, with about CANDIDATE_BYTES of text each."""
    rows, group, sizes = candidates.rows, candidates.group, candidates.bytes
    if int(sizes.sum()) <= CANDIDATE_BYTES:
        if len(rows):
            yield rows
        return
    order = np.argsort(group, kind="stable")
    by_group = rows[order]
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    filled = begun = 0
    for start, size in zip(starts.tolist(), np.add.reduceat(sizes[order], starts).tolist(), strict=True):
        if filled and filled + size > CANDIDATE_BYTES:
            yield np.sort(by_group[begun:start])
            begun, filled = start, 0
        filled += size
    yield np.sort(by_group[begun:])
