"""The answers of a batch: a file that lines are appended to, each of them whole, and that a killed run goes on with.

Beside it lies what it was begun with, so that answers to other requests, or of another model, never get into it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llama3.artifacts.files import write_json_atomic
from llama3.errors import ArtifactError

NOT_BEGUN = ArtifactError.declare(
    "L3-SRV-035", "this file was not begun by a batch", why="{state} is not there", fix="name another file"
)
OTHER_BATCH = ArtifactError.declare(
    "L3-SRV-036", "these answers were begun with other {what}", fix="name another file, or remove this one"
)
NO_ANSWER = ArtifactError.declare(
    "L3-SRV-037", "this is no answer of a batch", fix="remove the line: what it answered is answered again"
)
BUSY_FILE = ArtifactError.declare("L3-SRV-038", "another process writes these answers", fix="wait for it, or stop it")

SYNC_SECONDS = 5.0
"""How much of the work may be lost when the machine stops; when only the process does, nothing is."""


class Answers:
    """The answers at `path` to a batch that was `made_of` these contents (hashes by name).

    Opening creates the file, or drops a last line that was cut short. Raises ArtifactError where it is another batch's,
    or damaged; nothing is changed then.
    """

    def __init__(self, path: Path, made_of: dict[str, str]) -> None:
        self.path = path
        self.ids: set[str] = set()
        """Of the requests that have an answer."""
        self.errors = 0
        """Answers that are errors."""
        self._file = path.open("a+b")
        self._synced = time.monotonic()
        try:
            self._lock()
            self.created = self._begin(made_of)
            """When the batch was begun, in seconds since 1970."""
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._sync()

    def append(self, answer: dict[str, Any]) -> None:
        """Add an answer."""
        self._file.write(json.dumps(answer, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._count(answer)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _lock(self) -> None:
        """The kernel's lock, which ends with the process."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BUSY_FILE(self.path) from None

    def _begin(self, made_of: dict[str, str]) -> int:
        state = self.path.with_name(f"{self.path.name}.state.json")
        if not self._file.tell():
            created = int(time.time())
            write_json_atomic(state, {"schema_version": 1, "created": created, "made_of": made_of})
            return created
        try:
            begun = json.loads(state.read_bytes())
            before, created = begun["made_of"], int(begun["created"])
        except (OSError, ValueError, KeyError, TypeError):
            raise NOT_BEGUN(self.path, state=state.name) from None
        if other := [name for name in made_of if before.get(name) != made_of[name]]:
            raise OTHER_BATCH(self.path, what=other)
        return created

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                self._count(json.loads(line))
            except (ValueError, KeyError, TypeError):
                raise NO_ANSWER(f"{self.path}:{number}") from None
            whole += len(line)
        self._file.truncate(whole)
        self._file.seek(whole)

    def _count(self, answer: dict[str, Any]) -> None:
        self.ids.add(answer["custom_id"])
        self.errors += answer["error"] is not None
