"""One process at a time in a run directory.

The lock is the kernel's (`flock`): it ends with the process, however that ends, so a killed run never
blocks the next. The file's content only says who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama3.errors import ArtifactError

IN_USE = ArtifactError.declare(
    "L3-RUN-001",
    "another process works in this run directory: {holder}",
    fix="wait for it, stop it, or choose another run.name",
)


LOCK = ".lock"
"""Name of the file that is locked; a directory that has it is a run's."""


class RunLock:
    """The exclusive right to write in `folder`, from construction to `release` or the end of the process.

    Raises ArtifactError (L3-RUN-001) naming the holder when another process has it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        # Opened close-on-exec (Python's default): a subprocess that outlives the run must not keep the lock.
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            os.close(self._descriptor)
            raise IN_USE(folder, holder=holder) from None
        self._sign()

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files of one
        name.
        """
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _sign(self) -> None:
        assert self._descriptor is not None
        started = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(who).encode(), 0)

    def _holder(self) -> str:
        try:
            who: dict[str, Any] = json.loads(self.path.read_text())
            return f"pid {who['pid']} on {who['host']}, since {who['started']}"
        except (ValueError, KeyError, TypeError, OSError):
            return "it has just started"
