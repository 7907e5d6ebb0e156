"""Band runs: the band keys of a corpus, sorted, on disk, for a later corpus to find what it shares with this one.

A run begins with a line of JSON, padded to `HEAD` bytes: what made the keys, and how many documents there are. Then
come the keys of every band, ascending (uint64 [B, N]), and the document of each (uint32 [B, N]). A run never changes.

Letters: N documents of the run, B bands.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llama3.errors import DataError

BAD_RUN = DataError.declare(
    "L3-DAT-131",
    "this is no run of band keys",
    why="{found}",
    fix="curate that corpus again: the run is written with it",
)

HEAD = 4096
FAMILY = 1
"""Of the hash functions of the core: raised when a text gets other keys than before."""
MOST_MET = 64
"""Documents of a run that are looked at for one key; a full bucket of the core holds as many."""


@dataclass(frozen=True)
class BandParameters:
    """What two runs must have in common for their keys to mean the same."""

    ngram: int
    bands: int
    rows: int
    by_language: bool
    family: int = FAMILY

    def differences(self, other: BandParameters) -> list[str]:
        """What differs, as "name here, not there"."""
        ours, theirs = asdict(self), asdict(other)
        return [f"{name} {ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name]]


def write_run(path: Path, keys_NB: np.ndarray, parameters: BandParameters) -> None:
    """Writes the keys (uint64 [N, B]) of N documents."""
    head = json.dumps({"documents": len(keys_NB), **asdict(parameters)}).encode()
    with path.open("wb") as file:
        file.write(head.ljust(HEAD - 1) + b"\n")
        orders = [np.argsort(keys_N, kind="stable").astype(np.uint32) for keys_N in keys_NB.T]
        for keys_N, order_N in zip(keys_NB.T, orders, strict=True):
            keys_N[order_N].tofile(file)
        for order_N in orders:
            order_N.tofile(file)


class BandRun:
    """A run on disk, mapped into memory. Raises DataError (L3-DAT-131) where the file is none."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                head = json.loads(file.read(HEAD))
            self.documents = int(head.pop("documents"))
            self.parameters = BandParameters(**head)
            found, size = path.stat().st_size, HEAD + 12 * self.documents * self.parameters.bands
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise BAD_RUN(path, found=f"{type(error).__name__}: {error}") from error
        if found != size:
            raise BAD_RUN(path, found=f"it has {found} bytes, not {size}")
        body, keys = np.memmap(path, np.uint8, "r")[HEAD:], 8 * self.documents * self.parameters.bands
        shape = (self.parameters.bands, self.documents)
        self._keys_BN = body[:keys].view(np.uint64).reshape(shape)
        self._documents_BN = body[keys:].view(np.uint32).reshape(shape)

    def table(self) -> np.ndarray:
        """The keys by document, uint64 [N, B]."""
        keys_NB = np.empty(self._keys_BN.shape[::-1], np.uint64)
        for band, (keys_N, documents_N) in enumerate(zip(self._keys_BN, self._documents_BN, strict=True)):
            keys_NB[documents_N, band] = keys_N
        return keys_NB

    def between(self, band: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of a band from `low` on and below `high`, ascending (uint64), and the document of each (uint32)."""
        keys_N = self._keys_BN[band]
        start = np.searchsorted(keys_N, np.uint64(low))
        stop = self.documents if high >= 2**64 else np.searchsorted(keys_N, np.uint64(high))
        return keys_N[start:stop], self._documents_BN[band, start:stop]

    def met(self, band: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The documents (int64) that have one of these keys of a band (ascending, different), and which each has."""
        keys_N, documents_N = self._keys_BN[band], self._documents_BN[band]
        start = np.searchsorted(keys_N, wanted, "left")
        count = np.minimum(np.searchsorted(keys_N, wanted, "right") - start, MOST_MET)
        place = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
        return documents_N[place].astype(np.int64), np.repeat(wanted, count)
