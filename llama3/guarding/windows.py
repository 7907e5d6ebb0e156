"""A text that is longer than a model reads, in windows that overlap."""

from __future__ import annotations

LEAST_CONTEXT = 32
"""Tokens that stand before every token in one of its windows at least, unless the text begins there."""


def windows(tokens: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """First and last (excluded) token of each window; none of an empty text.

    Where `overlap` and `size - overlap` are LEAST_CONTEXT or more, every token has that many before it in one window.
    """
    starts = range(0, max(tokens - overlap, min(tokens, 1)), size - overlap)
    return [(start, min(start + size, tokens)) for start in starts]
