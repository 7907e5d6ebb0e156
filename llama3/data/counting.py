"""Which of more 64-bit keys than memory holds come often: sorted runs on disk, then one range of keys at a time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np

from llama3 import _core

HELD = 32 << 20
"""Keys in memory at a time: 256 MB, and as much again while they are sorted."""


class KeyCounter:
    """Finds the keys that come more often than `most` times. Keys are hashes: evenly spread, else a range of them may
    not fit. Holds `held` keys, whatever is added; runs lie in `folder`. The result depends on the keys alone."""

    def __init__(self, folder: Path, most: int, held: int) -> None:
        self.folder, self.most, self.held = folder, most, held
        self._some: list[np.ndarray] = []
        self._count = 0
        self._runs: list[np.ndarray] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, keys: np.ndarray) -> None:
        """Takes up more keys, uint64. Raises OSError where a run cannot be written."""
        self._some.append(keys)
        self._count += len(keys)
        if self._count >= self.held:
            self._runs.append(_on_disk(self.folder / f"{len(self._runs):06}.keys", [self._sorted()]))

    def frequent(self) -> np.ndarray:
        """The keys that came too often, ascending, uint64; mapped from disk where there are runs."""
        runs = [*self._runs, self._sorted()]
        if len(runs) == 1:
            return _core.frequent_keys(runs[0], self.most)
        ranges = -(-sum(map(len, runs)) // self.held)
        borders: list[int | None] = [n * 2**64 // ranges for n in range(ranges)]
        found = (
            _core.frequent_keys(np.concatenate([_between(run, low, high) for run in runs]), self.most)
            for low, high in pairwise([*borders, None])
        )
        return _on_disk(self.folder / "frequent.keys", found)

    def _sorted(self) -> np.ndarray:
        """What is held, ascending, of every key no more copies than tell that it came too often; it is held no more."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._some])
        self._some.clear()
        self._count = 0
        keys.sort()
        needed = np.ones(len(keys), bool)
        needed[self.most + 1 :] = keys[self.most + 1 :] != keys[: -self.most - 1]
        return keys[needed]


def _between(run: np.ndarray, low: int | None, high: int | None) -> np.ndarray:
    """The keys of an ascending run from `low` on and below `high`, where there are such limits."""
    start = 0 if low is None else np.searchsorted(run, np.uint64(low))
    stop = len(run) if high is None else np.searchsorted(run, np.uint64(high))
    return run[start:stop]


def _on_disk(path: Path, parts: Iterable[np.ndarray]) -> np.ndarray:
    """The parts, one after the other, in a file; mapped."""
    with path.open("wb") as file:
        for part in parts:
            part.tofile(file)
    return np.memmap(path, np.uint64, "r") if path.stat().st_size else np.empty(0, np.uint64)
