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
from llama3.data.counting import HELD, KeyCounter
from llama3.data.documents import DocumentBatch
from llama3.data.staging import Staged

if TYPE_CHECKING:
    from llama3.config.curation import LineDedupSection

LEFT_ALONE = -1
"""The bucket of what is not thinned."""


class Thinning:
    """Counts lines once, then gives the documents without the frequent ones. Of the lines no more than HELD keys are in
    memory; the rest lies on disk, beside the staged documents.

    With `by_language` a line is counted for each language of documents on its own."""

    def __init__(
        self, staged: Staged, kept_N: np.ndarray, options: LineDedupSection, by_language: bool = False
    ) -> None:
        self.staged, self.kept_N, self.options, self.by_language = staged, kept_N, options, by_language
        self._place_N = np.cumsum(kept_N) - 1
        self._languages: dict[str, int] = {}
        self.dropped = 0
        self._frequent = self._counted() if options.enabled else np.empty(0, np.uint64)

    @property
    def frequent(self) -> int:
        """Distinct lines that were too frequent, summed over buckets."""
        return len(self._frequent)

    def _counted(self) -> np.ndarray:
        counter = KeyCounter(self.staged.folder / "lines", self.options.max_count, HELD)
        for numbers, batch in self.staged.documents(self.kept_N):
            counter.add(_core.line_keys(*batch.buffers, self._buckets(numbers, batch)))
        return counter.frequent()

    def _buckets(self, numbers: np.ndarray, batch: DocumentBatch) -> np.ndarray:
        """int64 [D]: which documents are thinned together, by their place and, where it counts, their language."""
        bucket_D = self._place_N[numbers] // self.options.bucket_documents
        if self.by_language:
            languages = self._languages
            names = batch.column("language")
            bucket_D += np.array([languages.setdefault(name, len(languages)) for name in names], np.int64) << 32
        prose_D = np.asarray(pc.equal(batch.records.column("kind"), "prose"), bool)
        return np.where(prose_D, bucket_D, LEFT_ALONE)

    def documents(self) -> Iterator[DocumentBatch]:
        """The kept documents, thinned, with the columns `lines_dropped` and `number` (of the staged document). Ids stay
        those of the text as it was read."""
        for numbers, batch in self.staged.documents(self.kept_N):
            dropped_D = np.zeros(len(batch), np.int64)
            if self.options.enabled:
                bucket_D = self._buckets(numbers, batch)
                data, offsets, dropped_D = _core.drop_lines(*batch.buffers, bucket_D, self._frequent)
                batch = batch.with_text(data, offsets)
                self.dropped += int(dropped_D.sum())
            yield batch.with_column("lines_dropped", pa.array(dropped_D)).with_column("number", pa.array(numbers))
