"""Line deduplication over staged documents (paper 3.1.1): in every bucket of documents, lines that occur more often
than the limit are dropped, all their occurrences.

Only prose is thinned: the most frequent lines of code (`else:`, `return None`) are part of it, and what a program made
repeats itself on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llama3 import _core
from llama3.data.documents import DocumentBatch

if TYPE_CHECKING:
    from llama3.config.curation import LineDedupSection

LEFT_ALONE = -1
"""The bucket of what is not thinned."""


class LineBuckets:
    """Tells documents, which come in their order, the bucket in which their lines are counted: by their place among all
    that are kept, `before` of which stand before the first, and where it counts by their language."""

    def __init__(self, options: LineDedupSection, by_language: bool = False, before: int = 0) -> None:
        self.options, self.by_language = options, by_language
        self._next = before

    def of(self, batch: DocumentBatch) -> np.ndarray:
        """int64 [D]."""
        bucket_D = np.arange(self._next, self._next + len(batch)) // self.options.bucket_documents
        self._next += len(batch)
        if self.by_language:
            languages = batch.column("language")
            number = {name: int(_core.blake3_bytes(name.encode())[:7], 16) << 32 for name in set(languages)}
            bucket_D += np.array([number[name] for name in languages], np.int64)
        prose_D = np.asarray(pc.equal(batch.records.column("kind"), "prose"), bool)
        return np.where(prose_D, bucket_D, LEFT_ALONE)

    def keys(self, batch: DocumentBatch) -> np.ndarray:
        """uint64: of every line a hash of it and its bucket."""
        return _core.line_keys(*batch.buffers, self.of(batch))

    def thinned(self, batch: DocumentBatch, frequent: np.ndarray) -> DocumentBatch:
        """The documents without the lines whose keys are frequent (ascending), with a column `lines_dropped`. Ids stay
        those of the text as it was read."""
        dropped_D = np.zeros(len(batch), np.int64)
        if self.options.enabled:
            data, offsets, dropped_D = _core.drop_lines(*batch.buffers, self.of(batch), frequent)
            batch = batch.with_text(data, offsets)
        return batch.with_column("lines_dropped", pa.array(dropped_D))
