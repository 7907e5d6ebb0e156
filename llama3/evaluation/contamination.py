"""Contamination of held-out tasks: how much of each occurs in the text that was trained on (paper 5.1.4).

Two questions. Against the pretraining text: the share of a task's tokens that lie in an 8-gram of tokens that the
text contains; a task at or above the threshold counts as contaminated. Against the post-training dialogs: prompts
that occur there word for word (paper 4.2.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

NGRAM = 8
THRESHOLD = 0.8
"""Share of covered tokens from which a task counts as contaminated."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class NgramIndex:
    """The distinct n-grams of a training text, as sorted 64-bit hashes (8 bytes each)."""

    def __init__(self, rows: Iterable[np.ndarray], n: int = NGRAM) -> None:
        """`rows` are the token ids of documents; n-grams never cross two of them."""
        self.n = n
        hashes = [_ngram_hashes(row, n) for row in rows]
        self._hashes = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def coverage(self, ids: np.ndarray) -> float:
        """Share of the tokens `ids` that lie in an n-gram of the text; 0 for fewer than n tokens."""
        wanted = _ngram_hashes(ids, self.n)
        if len(wanted) == 0 or len(self._hashes) == 0:
            return 0.0
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        starts = np.flatnonzero(self._hashes[at] == wanted)
        covered = np.zeros(len(ids), bool)
        for offset in range(self.n):
            covered[starts + offset] = True
        return float(covered.mean())


def _ngram_hashes(ids: np.ndarray, n: int) -> np.ndarray:
    if len(ids) < n:
        return np.empty(0, np.uint64)
    mixed = ids.astype(np.uint64) + np.uint64(1)
    key = np.zeros(len(ids) - n + 1, np.uint64)
    for offset in range(n):
        key = (key ^ mixed[offset : len(ids) - n + 1 + offset]) * _MULTIPLIER
        key ^= key >> np.uint64(29)
    return key


def contaminated_share(index: NgramIndex, tasks: Sequence[np.ndarray]) -> dict[str, float | int]:
    """The figures of one set of tasks, each given as token ids."""
    coverage = np.array([index.coverage(ids) for ids in tasks])
    return {
        "n": len(tasks),
        "too_short": sum(len(ids) < index.n for ids in tasks),
        "contaminated": int((coverage >= THRESHOLD).sum()),
        "mean_coverage": float(coverage.mean()) if len(tasks) else 0.0,
        "max_coverage": float(coverage.max()) if len(tasks) else 0.0,
        "ngram": index.n,
        "threshold": THRESHOLD,
    }
