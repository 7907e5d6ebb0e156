"""Line deduplication over staged documents (paper 3.1.1): in every bucket of documents, lines that occur more often
than the limit are dropped, all their occurrences.

Only prose is thinned: the most frequent lines of code (`else:`, `return None`) are part of it, and what a program made
repeats itself on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3 import _core
from llama3.data.documents import DocumentBatch
from llama3.data.staging import Staged

if TYPE_CHECKING:
    from llama3.config.schema import LineDedupSection


class Thinning:
    """Counts lines once, then gives the documents without the frequent ones. Holds 8 bytes per line of a bucket."""

    def __init__(self, staged: Staged, kept_N: np.ndarray, options: LineDedupSection) -> None:
        self.staged, self.kept_N, self.options = staged, kept_N, options
        self.bucket_N = (np.cumsum(kept_N) - 1) // options.bucket_documents
        self.dropped = 0
        self._frequent: list[np.ndarray] = []
        if options.enabled:
            self._count()

    @property
    def frequent(self) -> int:
        """Distinct lines that were too frequent, summed over buckets."""
        return sum(map(len, self._frequent))

    def _count(self) -> None:
        keys: list[np.ndarray] = []
        for bucket, batch in self._batches():
            if bucket > len(self._frequent):
                self._close(keys)
            keys.append(_core.line_keys(*batch.take(_is_prose(batch)).buffers))
        self._close(keys)

    def _close(self, keys: list[np.ndarray]) -> None:
        all_keys = np.concatenate([np.empty(0, np.uint64), *keys])
        self._frequent.append(_core.frequent_keys(all_keys, self.options.max_count))
        keys.clear()

    def _batches(self) -> Iterator[tuple[int, DocumentBatch]]:
        """The kept documents in order, no batch across the border of two buckets."""
        for numbers, batch in self.staged.documents(self.kept_N):
            bucket_D = self.bucket_N[numbers]
            for bucket in np.unique(bucket_D):
                yield int(bucket), batch.take(bucket_D == bucket)

    def documents(self) -> Iterator[DocumentBatch]:
        """The kept documents, thinned, with the column `lines_dropped`. Ids stay those of the text as it was read."""
        for bucket, batch in self._batches():
            dropped_D = np.zeros(len(batch), np.int64)
            if self.options.enabled:
                data, offsets, dropped_D = _core.drop_lines(*batch.buffers, _is_prose(batch), self._frequent[bucket])
                batch = batch.with_text(data, offsets)
                self.dropped += int(dropped_D.sum())
            yield batch.with_column("lines_dropped", pa.array(dropped_D))


def _is_prose(batch: DocumentBatch) -> np.ndarray:
    return np.asarray(pc.equal(batch.records.column("kind"), "prose"), bool)
