"""Contamination of held-out tasks: how much of each occurs in what was trained on (paper 5.1.4).

Three questions. Against the pretraining text: the share of a task's tokens that lie in an 8-gram of tokens that the
text contains. Against the data of post-training: prompts that occur there word for word (paper 4.2.3), which no release
survives; and the share of a task's own 8-grams that occur there. Tasks made from templates share most of their words
with all tasks of their family, trained on or not; so only 8-grams that stand in one held-out task tell it apart.

A task whose share reaches the threshold counts as contaminated.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from llama3.artifacts import Artifact
from llama3.errors import GateFailed

TRAINED_ON = GateFailed.declare(
    "L3-EVL-030",
    "this held-out task is among the training data",
    why="{prompt}",
    fix="take it out of the data, or evaluate on other tasks",
)

DATA_TYPES = ("dialogs", "preferences")
"""Artifacts that hold data of post-training."""
NOT_LEARNT = ("samples.jsonl", "held_out.jsonl")
"""Files of such artifacts that no stage learns from."""
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
        starts = np.flatnonzero(self.knows(wanted))
        covered = np.zeros(len(ids), bool)
        for offset in range(self.n):
            covered[starts + offset] = True
        return float(covered.mean())

    def knows(self, hashes: np.ndarray) -> np.ndarray:
        """Which of these n-grams the text contains."""
        if len(self._hashes) == 0:
            return np.zeros(len(hashes), bool)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return self._hashes[at] == hashes


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
    return _figures(index, [index.coverage(ids) for ids in tasks], sum(len(ids) < index.n for ids in tasks))


def own_share(index: NgramIndex, tasks: Sequence[np.ndarray]) -> dict[str, float | int]:
    """The same figures over each task's own n-grams only: those that no other of the tasks has. A task without any
    counts as too short."""
    grams = [np.unique(_ngram_hashes(ids, index.n)) for ids in tasks]
    hashes, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_counts=True)
    own = [gram[counts[np.searchsorted(hashes, gram)] == 1] for gram in grams]
    shares = [float(index.knows(gram).mean()) if len(gram) else 0.0 for gram in own]
    return _figures(index, shares, sum(len(gram) == 0 for gram in own))


def _figures(index: NgramIndex, shares: Sequence[float], too_short: int) -> dict[str, float | int]:
    return {
        "n": len(shares),
        "too_short": too_short,
        "contaminated": sum(share >= THRESHOLD for share in shares),
        "mean_coverage": sum(shares) / len(shares) if shares else 0.0,
        "max_coverage": max(shares, default=0.0),
        "ngram": index.n,
        "threshold": THRESHOLD,
    }


def trained_texts(data: Artifact) -> Iterator[str]:
    """Every text in the rows that a stage may learn from, whatever kind of data they are."""
    for path in sorted(data.path.glob("*.jsonl")):
        if path.name not in NOT_LEARNT:
            with data.file(path.name).open(encoding="utf-8") as file:
                for row in map(json.loads, file):
                    yield from _texts(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def require_clean(found: Artifact) -> None:
    """The gate: nothing happens where no held-out task was trained on. Raises GateFailed naming some that were."""
    problems = [
        TRAINED_ON.problem(f"{role}: {leak['id']}", prompt=leak["prompt"])
        for role in DATA_TYPES
        for leak in found.metrics.get(role, {}).get("leaks", [])
    ]
    if problems:
        raise GateFailed.of(problems)
