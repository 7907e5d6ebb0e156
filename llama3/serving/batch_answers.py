"""The answers of a batch: a file that lines are appended to, each of them whole, and that a killed run goes on with.

Beside it lies what it was begun with, so that answers to other requests, or of another model, never get into it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from llama3.artifacts.begun_lines import BegunErrors, BegunLines
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


class Answers(BegunLines):
    """The answers at `path` to a batch that was `made_of` these contents (hashes by name).

    Opening creates the file, or drops a last line that was cut short. Raises ArtifactError where it is another batch's,
    or damaged; nothing is changed then.
    """

    def __init__(self, path: Path, made_of: dict[str, str]) -> None:
        state = path.with_name(f"{path.name}.state.json")
        super().__init__(path, state, made_of, BegunErrors(BUSY_FILE, NOT_BEGUN, OTHER_BATCH))
        self.ids: set[str] = set()
        """Of the requests that have an answer."""
        self.errors = 0
        """Answers that are errors."""
        self._synced = time.monotonic()
        try:
            self.read(self._take)
        except BaseException:
            self.close()
            raise

    def add(self, answer: dict[str, Any]) -> None:
        """Add an answer."""
        self.append([answer])
        self._count(answer)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()
            self._synced = time.monotonic()

    def _take(self, line: bytes, number: int) -> bool:
        try:
            self._count(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise NO_ANSWER(f"{self.path}:{number}") from None
        return True

    def _count(self, answer: dict[str, Any]) -> None:
        self.ids.add(answer["custom_id"])
        self.errors += answer["error"] is not None
