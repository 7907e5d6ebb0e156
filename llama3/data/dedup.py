"""Finding duplicates among texts: exact ones, and near ones by MinHash, banding and exact verification.

Letters: D documents, B bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data.documents import text_buffers
from llama3.errors import ConfigError

OUT_OF_BOUNDS = ConfigError.declare(
    "L3-DAT-100",
    "threshold={threshold}, ngram={ngram}, bands={bands}, rows={rows} cannot be used",
    why="the threshold must be above 0 and at most 1, the others at least 1",
)


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


class Deduplicator:
    """Near-duplicate texts, two documents being duplicates when the Jaccard similarity of their word n-grams is at
    least `threshold`. Candidates are found with 1 - (1 - J^rows)^bands; no false positive survives verification.

    Words are compared without case and punctuation; in scripts without spaces every character is a word. Texts
    shorter than `ngram` words are compared as a whole. The result depends on the order of the texts only.

    >>> found = Deduplicator().find(["a text", "A text!", "another text"])
    >>> found.keep_D.tolist(), found.duplicate_of_D.tolist()
    ([True, False, True], [-1, 0, -1])
    """

    def __init__(self, *, threshold: float = 0.8, ngram: int = 5, bands: int = 14, rows: int = 8) -> None:
        if not (0 < threshold <= 1 and min(ngram, bands, rows) >= 1):
            raise OUT_OF_BOUNDS("Deduplicator", threshold=threshold, ngram=ngram, bands=bands, rows=rows)
        self.threshold, self.ngram, self.bands, self.rows = threshold, ngram, bands, rows
        self._texts: list[pa.Array] = []
        self._keys: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._texts))

    def add(self, texts: Iterable[str] | pa.Array) -> None:
        """Takes up more texts; they are numbered on from those before. Keeps the text and 8 bytes per band."""
        array = texts.cast(pa.large_string()) if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        self._keys.append(self.keys(*text_buffers(array)))
        self._texts.append(array)

    def find(self, texts: Iterable[str] | pa.Array | None = None) -> Duplicates:
        """Duplicates among all texts added so far, `texts` included."""
        if texts is not None:
            self.add(texts)
        keys_DB = np.concatenate([np.empty((0, self.bands), np.uint64), *self._keys])
        chunks = pa.chunked_array(self._texts, pa.large_string())
        return self.settle(keys_DB, lambda rows: chunks.take(pa.array(rows)).combine_chunks())

    def keys(self, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Band keys of documents in one buffer, uint64 [D, B]."""
        return _core.minhash_keys(data, offsets, ngram=self.ngram, bands=self.bands, rows=self.rows)

    def settle(self, keys_DB: np.ndarray, fetch: Callable[[np.ndarray], pa.Array]) -> Duplicates:
        """Verifies and decides. `fetch` returns the text of the documents with the given numbers (ascending int64):
        only of candidates, so that a corpus need not be in memory."""
        rows = np.flatnonzero(_core.shared_keys(keys_DB))
        text = fetch(rows)
        text = text.chunk(0) if isinstance(text, pa.ChunkedArray) else text
        duplicate_of, similarity, comparisons, full_buckets = _core.near_duplicates(
            *text_buffers(text), keys_DB[rows], ngram=self.ngram, threshold=self.threshold
        )
        duplicate_of_D = np.full(len(keys_DB), -1, np.int64)
        similarity_D = np.zeros(len(keys_DB))
        removed = duplicate_of >= 0
        duplicate_of_D[rows[removed]] = rows[duplicate_of[removed]]
        similarity_D[rows] = similarity
        return Duplicates(duplicate_of_D < 0, duplicate_of_D, similarity_D, len(rows), comparisons, full_buckets)
