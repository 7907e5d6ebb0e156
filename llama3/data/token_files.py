"""Token files of other tools: documents as numbers, without text. What readers and writers of all formats share.

Letters: D documents and T tokens of a portion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from llama3.errors import DataError

NOT_SOUND = DataError.declare(
    "L3-DAT-220",
    "this is no whole {format} file: {wrong}",
    fix="copy it again from where it was made, or make it again with its own tool",
)

PORTION = 1 << 20
"""Tokens that are held at a time; a longer document is held whole."""


class TokenFile(Protocol):
    """A file of documents in tokens, opened and found to be sound. Its numbers are read in portions."""

    @property
    def path(self) -> Path:
        """The file that holds the tokens."""
        ...

    @property
    def files(self) -> list[Path]:
        """All that belongs to it."""
        ...

    @property
    def tokens(self) -> int: ...

    @property
    def documents(self) -> int:
        """Empty ones counted."""
        ...

    def ends(self) -> Iterator[np.ndarray]:
        """Where documents end, in tokens from the beginning: ascending int64, in portions."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens from `start` to before `stop`, int64."""
        ...


class TokenFileWriter(Protocol):
    """Writes one file of documents in tokens; it is whole when `close` has returned."""

    def write(self, ids_T: np.ndarray, starts_D1: np.ndarray) -> None:
        """Append documents: document d is `ids_T[starts_D1[d] : starts_D1[d + 1]]`."""
        ...

    def close(self) -> None: ...


def portions(file: TokenFile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a file in order: int64 tokens [T], and where each starts in them, int64 [D + 1]."""
    begun = 0
    for ends_D in file.ends():
        at = 0
        while at < len(ends_D):
            stop = max(at + 1, int(np.searchsorted(ends_D, begun + PORTION, "right")))
            starts_D1 = np.concatenate([[begun], ends_D[at:stop]])
            yield file.read(begun, int(starts_D1[-1])), starts_D1 - begun
            begun, at = int(starts_D1[-1]), stop


@dataclass(frozen=True)
class NumberColumn:
    """`count` numbers that lie in a file from byte `at` on. They are read, never mapped: a file that somebody cuts
    short meanwhile is then an error, and not the end of the process."""

    path: Path
    type: np.dtype
    count: int
    at: int = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Numbers `start` to before `stop`, in the file's own type. Raises DataError where the file became shorter."""
        found = np.fromfile(self.path, self.type, stop - start, offset=self.at + start * self.type.itemsize)
        if len(found) != stop - start:
            raise NOT_SOUND(self.path, format="token", wrong="it became shorter while it was read")
        return found

    def portions(self, size: int = PORTION) -> Iterator[np.ndarray]:
        """All numbers in order."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count))


def bytes_of(path: Path) -> int:
    """The size of a plain file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def size_problems(path: Path, found: int, wanted: int, what: str) -> list[str]:
    """What is wrong with the size of a file, in words."""
    return [] if found == wanted else [f"{path.name} has {found:,} bytes where {what} make {wanted:,}"]
