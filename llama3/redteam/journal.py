"""attempts.jsonl: every attempt, round by round; a killed red team goes on behind the last whole round.

Beside it lies what it was begun with (redteam.json), so that attempts on another model never get into it. A round is
written whole, as one text that is synced, and its last row says so: what a kill cut short is dropped and done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llama3.artifacts.files import TEMPORARY_MARK, fsync_dir, write_json_atomic
from llama3.errors import ArtifactError

OTHER_BEGUN = ArtifactError.declare(
    "L3-RED-001", "this red team was begun with other {what}", fix="name another --out, or remove this folder"
)
NOT_BEGUN = ArtifactError.declare(
    "L3-RED-002", "this folder was not begun by a red team", why="{why}", fix="name another --out"
)
DAMAGED = ArtifactError.declare("L3-RED-003", "this is no attempt of a red team", fix="name another --out")
BUSY = ArtifactError.declare("L3-RED-004", "another process writes these attempts", fix="wait for it, or stop it")

ATTEMPTS, STATE = "attempts.jsonl", "redteam.json"
COLUMNS = frozenset({"n", "round", "seed", "category", "attack", "lang", "styles", "chain", "turns", "answer",
                     "caught", "violates", "outcome", "unanswered", "messages", "put"})  # fmt: skip
"""What every attempt has."""

NO_FORM = "no form"
"""The target's chat format has no way to say what the attack says, such as a tool's result."""
NO_ROOM = "no room"
"""What was said fills the target's context: not a token of an answer fits."""


def require_ours(folder: Path) -> None:
    """Raise ArtifactError for a folder that holds something and was not begun by a red team.

    One that was killed as it began has left no more than an empty file of attempts, and temporary files.
    """
    if not folder.exists() or (folder / STATE).exists():
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(f"{STATE}{TEMPORARY_MARK}") and (path.name != ATTEMPTS or path.stat().st_size):
            raise NOT_BEGUN(folder, why=f"it holds {path.name}, and no {STATE}")


class Journal:
    """The attempts in a folder, begun with `made_of` (plain data by name). Opening drops rows behind the last whole
    round. Raises ArtifactError where they are another red team's, damaged, or in use; nothing is changed then."""

    def __init__(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        require_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / ATTEMPTS
        self.rounds: list[list[dict[str, Any]]] = []
        self._file = self.path.open("a+b")
        try:
            self._lock()
            self._begin(made_of)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        return [row for rows in self.rounds for row in rows]

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add a round."""
        marked = [{**row, "last": number == len(rows)} for number, row in enumerate(rows, 1)]
        self._file.write(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in marked))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rounds.append(marked)

    def drop_round(self) -> None:
        """Forget the last round, which is to be done again."""
        self.rounds.pop()
        kept = sum(len(json.dumps(row, allow_nan=False).encode()) + 1 for row in self.attempts)
        self._file.truncate(kept)
        self._file.seek(kept)

    def _lock(self) -> None:
        """The kernel's lock, which ends with the process."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BUSY(self.path) from None

    def _begin(self, made_of: Mapping[str, Any]) -> None:
        state, plain = self.folder / STATE, json.loads(json.dumps(made_of))
        if not state.exists():
            write_json_atomic(state, {"schema_version": 1, "made_of": plain})
            fsync_dir(self.folder)
            return
        try:
            before = json.loads(state.read_bytes())["made_of"]
            other = [name for name in plain if before.get(name) != plain[name]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise NOT_BEGUN(self.folder, why=f"{STATE} cannot be read") from None
        if other:
            raise OTHER_BEGUN(self.folder, what=other)

    def _read(self) -> None:
        self._file.seek(0)
        rows: list[dict[str, Any]] = []
        whole = read = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            read += len(line)
            rows.append(self._row(line, number))
            if rows[-1]["last"]:
                self.rounds.append(rows)
                rows, whole = [], read
        self._file.truncate(whole)
        self._file.seek(whole)

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not (isinstance(row, dict) and row.keys() > COLUMNS and _is_typed(row)):
            raise DAMAGED(f"{self.path}:{number}")
        return row


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("n", "round", "messages"), int),
    **dict.fromkeys(("seed", "category", "attack", "lang", "outcome"), str),
    **dict.fromkeys(("styles", "chain", "turns", "caught"), list),
    "answer": (str, type(None)),
    "violates": (int, float, type(None)),
    "last": bool,
}


def _is_typed(row: Mapping[str, Any]) -> bool:
    """Whether a row's values are such as an attempt has; the last one of a round says by what it was cut short."""
    if not all(isinstance(row.get(name), kind) for name, kind in _TYPES.items()):
        return False
    chain = all(isinstance(wording, list) and len(wording) == 2 for wording in row["chain"])
    caught = all(isinstance(said, dict) and {"guard", "status"} <= said.keys() for said in row["caught"])
    return chain and caught and (not row["last"] or ("cut" in row and isinstance(row["cut"], int | None)))
