"""What rules for single lines read (Raffel et al. 2020, C4, section 2.2). Letters: L lines of a batch that are not
blank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama3 import _core
from llama3.data.documents import DocumentBatch


@dataclass(frozen=True)
class LineFacts:
    """The lines of a batch, their facts each an array [L]: int64 up to `sentences`, then bool."""

    document: np.ndarray
    start: np.ndarray
    """Bytes from the start of the document."""
    end: np.ndarray
    """Behind the line break."""
    words: np.ndarray
    """What spaces separate."""
    longest_word: np.ndarray
    sentences: np.ndarray
    terminal: np.ndarray
    """Ends with . ? ! or a quote, spaces aside. This and all that follows is told of the line without citations."""
    ellipsis: np.ndarray
    lorem_ipsum: np.ndarray
    javascript: np.ndarray
    curly_bracket: np.ndarray
    policy: np.ndarray
    """Speaks of terms of use, privacy or cookies."""
    citations: np.ndarray
    """Had such as `[12]`, `[edit]` or `[citation needed]`."""

    @classmethod
    def of(cls, batch: DocumentBatch) -> LineFacts:
        """What the analysis pass found; where the batch has not been through it, it is now."""
        return cls(**(batch.lines or batch.with_features().lines))


def citation_spans(batch: DocumentBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(document, start, end) of every citation, int64, in bytes from the start of its document."""
    data, offsets = batch.buffers
    document, start, end = _core.citation_spans(data, offsets).T
    return document, start - offsets[document], end - offsets[document]


def line_repetition(batch: DocumentBatch, ngram: int) -> np.ndarray:
    """How repetitive each line of `LineFacts.of(batch)` is in itself: the share of its word characters inside runs of
    `ngram` words that it had before (Rae et al. 2021, appendix A.1.1, for a line in place of a document), float64 [L].
    """
    return _core.line_repetition(*batch.buffers, ngram=ngram)
