"""Which of more 64-bit keys than memory holds come often: sorted runs on disk, then one range of keys at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from llama3 import _core

HELD = 32 << 20
"""Keys in memory at a time: 256 MB, and as much again while they are sorted."""


def sorted_run(keys: Iterable[np.ndarray], most: int) -> np.ndarray:
    """The keys (uint64), ascending, of every one no more copies than tell that it came more often than `most` times."""
    run = np.concatenate([np.empty(0, np.uint64), *keys])
    run.sort()
    needed = np.ones(len(run), bool)
    needed[most + 1 :] = run[most + 1 :] != run[: -most - 1]
    return run[needed]


def frequent_keys(runs: Sequence[Path], most: int, file: Path, held: int = HELD) -> int:
    """Writes to `file` the keys that come more often than `most` times in all runs, ascending; how many. Keys are
    hashes: evenly spread, else a range of them may not fit. `held` of them are in memory, whatever the runs hold. The
    result depends on the keys alone. Raises OSError where it cannot be written."""
    count = 0
    ranges = max(1, -(-sum(run.stat().st_size for run in runs) // (8 * held)))
    with file.open("wb") as out:
        for low, high in pairwise([n * 2**64 // ranges for n in range(ranges + 1)]):
            some = np.concatenate([np.empty(0, np.uint64), *(_between(run, low, high) for run in runs)])
            found = _core.frequent_keys(some, most)
            found.tofile(out)
            count += len(found)
    return count


def keys_in(file: Path) -> np.ndarray:
    """The keys of a file, uint64, mapped."""
    return np.memmap(file, np.uint64, "r") if file.stat().st_size else np.empty(0, np.uint64)


def _between(file: Path, low: int, high: int) -> np.ndarray:
    """The keys of an ascending run from `low` on and below `high`; the file is closed again."""
    run = keys_in(file)
    start = np.searchsorted(run, np.uint64(low))
    stop = len(run) if high >= 2**64 else np.searchsorted(run, np.uint64(high))
    return np.array(run[start:stop])
