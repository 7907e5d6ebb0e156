"""What a language model must beat, in bits per byte of the same held-out text: gzip, and an order-3 byte model.

The byte model predicts each byte from the three before it, with interpolated Witten-Bell smoothing down to the
uniform distribution (Witten & Bell 1991; Chen & Goodman 1999, section 2.6), counted on the training text.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import numpy as np

ORDER = 3
"""Bytes of context."""


def gzip_bits_per_byte(text: bytes) -> float:
    """Size of `text` after gzip -9, in bits per byte."""
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


class ByteModel:
    """An interpolated n-gram model over bytes. Memory: about 12 bytes per distinct n-gram."""

    def __init__(self, documents: Sequence[bytes], order: int = ORDER) -> None:
        """Count n-grams of 1 to order + 1 bytes within documents (never across)."""
        self.order = order
        text, position_N = _concatenate(documents)
        self._grams = [_counts(_ngrams(text, position_N, size)) for size in range(1, order + 2)]
        self._contexts = [_context_counts(keys, counts) for keys, counts in self._grams]

    def bits_per_byte(self, documents: Sequence[bytes]) -> float:
        """Mean -log2 p of every byte of `documents`."""
        text, position_N = _concatenate(documents)
        p_N = np.full(len(text), 1 / 256)
        for size in range(1, self.order + 2):
            scored = np.flatnonzero(position_N >= size - 1)
            keys = _ngrams(text, position_N, size)
            gram = _look_up(*self._grams[size - 1], keys)
            contexts, totals, kinds = self._contexts[size - 1]
            total, kind = _look_up(contexts, totals, keys >> 8), _look_up(contexts, kinds, keys >> 8)
            # Witten-Bell: the weight of the lower order is the share of new symbols seen after this context.
            p_N[scored] = (gram + kind * p_N[scored]) / np.maximum(total + kind, 1) + (total == 0) * p_N[scored]
        return float(-np.log2(p_N).mean())


def _concatenate(documents: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """All bytes as int64 and each one's position within its document."""
    text = np.frombuffer(b"".join(documents), np.uint8).astype(np.int64)
    lengths = np.array([len(document) for document in documents], np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return text, np.arange(len(text)) - starts


def _ngrams(text: np.ndarray, position_N: np.ndarray, size: int) -> np.ndarray:
    """The `size` bytes that end at each position that has that many, packed into one integer, last byte lowest."""
    ends = np.flatnonzero(position_N >= size - 1)
    key = np.zeros(len(ends), np.int64)
    for back in range(size - 1, -1, -1):
        key = (key << 8) | text[ends - back]
    return key


def _counts(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(keys, return_counts=True)


def _context_counts(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per context: how often it occurs, and how many different bytes follow it."""
    contexts, starts, kinds = np.unique(keys >> 8, return_index=True, return_counts=True)
    totals = np.add.reduceat(counts, starts) if len(starts) else counts
    return contexts, totals, kinds


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`values` at `wanted` among the sorted `keys`, 0 where absent."""
    if len(keys) == 0:
        return np.zeros(len(wanted))
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)
