"""A file of JSON lines that one process appends to, and that goes on where it was killed.

Beside it lies what it was begun with, so that lines of other work never get into it. What a kill cut short at its end
is dropped when it is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llama3.artifacts.files import fsync_dir, write_json_atomic
from llama3.errors import ArtifactError, Declaration


@dataclass(frozen=True, slots=True)
class BegunErrors:
    """What is raised where the file cannot be gone on with."""

    busy: Declaration[ArtifactError]
    """Another process has it open."""
    not_begun: Declaration[ArtifactError]
    """It has lines, and no `state` beside it that can be read."""
    other: Declaration[ArtifactError]
    """It was begun with other values: `what` lists their names."""


class BegunLines:
    """The file at `path`, begun with `made_of` (plain data by name), which lies in `state`.

    Opening creates both. Raises ArtifactError where the file is in use or another work's; nothing is changed then.
    """

    def __init__(self, path: Path, state: Path, made_of: Mapping[str, Any], errors: BegunErrors) -> None:
        self.path = path
        self._file = path.open("a+b")
        try:
            self._lock(errors)
            self.created = self._begin(state, json.loads(json.dumps(made_of)), errors)
            """When the work was begun, in seconds since 1970."""
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Sync what was appended, and let others have the file."""
        with self._file:
            self.sync()

    def read(self, take: Callable[[bytes, int], bool]) -> None:
        """Give each whole line, with its number from 1, to `take`, which says whether what is kept may end there; drop
        what stands behind the last such line. Nothing is dropped where `take` raises."""
        self._file.seek(0)
        kept = read = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            read += len(line)
            if take(line, number):
                kept = read
        self.cut(kept)

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes."""
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a line of each. They outlive the process at once, and the machine after `sync`."""
        self._file.write(b"".join(map(line_of, rows)))
        self._file.flush()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self, errors: BegunErrors) -> None:
        """The kernel's lock, which ends with the process."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.busy(self.path) from None

    def _begin(self, state: Path, made_of: Mapping[str, Any], errors: BegunErrors) -> int:
        if not self._file.tell():
            created = int(time.time())
            write_json_atomic(state, {"schema_version": 1, "created": created, "made_of": made_of})
            fsync_dir(state.parent)
            return created
        try:
            begun = json.loads(state.read_bytes())
            before, created = begun["made_of"], int(begun["created"])
            other = [name for name in made_of if before.get(name) != made_of[name]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise errors.not_begun(self.path, state=state.name) from None
        if other:
            raise errors.other(self.path, what=other)
        return created


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as it is appended."""
    return json.dumps(row, allow_nan=False).encode() + b"\n"
