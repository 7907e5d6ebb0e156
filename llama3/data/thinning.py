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
    from llama3.config.curation import LineDedupSection


class Thinning:
    """Counts lines once, then gives the documents without the frequent ones. Holds 8 bytes per line of a bucket.

    With `by_language` a line is counted for each language of documents on its own."""

    def __init__(
        self, staged: Staged, kept_N: np.ndarray, options: LineDedupSection, by_language: bool = False
    ) -> None:
        self.staged, self.kept_N, self.options, self.by_language = staged, kept_N, options, by_language
        self.bucket_N = (np.cumsum(kept_N) - 1) // options.bucket_documents
        self.dropped = 0
        self._frequent: list[dict[str, np.ndarray]] = []
        if options.enabled:
            self._count()

    @property
    def frequent(self) -> int:
        """Distinct lines that were too frequent, summed over buckets."""
        return sum(len(keys) for bucket in self._frequent for keys in bucket.values())

    def _count(self) -> None:
        keys: dict[str, list[np.ndarray]] = {}
        for bucket, batch in self._batches():
            if bucket > len(self._frequent):
                self._close(keys)
            for language, prose_D in self._prose(batch):
                keys.setdefault(language, []).append(_core.line_keys(*batch.take(prose_D).buffers))
        self._close(keys)

    def _close(self, keys: dict[str, list[np.ndarray]]) -> None:
        most = self.options.max_count
        self._frequent.append({name: _core.frequent_keys(np.concatenate(some), most) for name, some in keys.items()})
        keys.clear()

    def _prose(self, batch: DocumentBatch) -> Iterator[tuple[str, np.ndarray]]:
        """Which documents are thinned together: the prose, all of it ("") or that of each language."""
        prose_D = np.asarray(pc.equal(batch.records.column("kind"), "prose"), bool)
        if not self.by_language:
            yield "", prose_D
            return
        language_D = np.array(batch.column("language"), dtype=object)
        for language in sorted(set(language_D[prose_D])):
            yield language, prose_D & (language_D == language)

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
                for language, prose_D in self._prose(batch):
                    frequent = self._frequent[bucket][language]
                    data, offsets, dropped = _core.drop_lines(*batch.buffers, prose_D, frequent)
                    batch = batch.with_text(data, offsets)
                    dropped_D += dropped
                self.dropped += int(dropped_D.sum())
            yield batch.with_column("lines_dropped", pa.array(dropped_D))
