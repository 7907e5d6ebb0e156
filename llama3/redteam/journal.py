"""attempts.jsonl: every attempt, round by round; a killed red team goes on behind the last whole round.

Beside it lies what it was begun with (redteam.json), so that attempts on another model never get into it. A round is
written whole, as one text that is synced, and its last row says so: what a kill cut short is dropped and done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3.artifacts.begun_lines import BegunErrors, BegunLines, line_of
from llama3.artifacts.files import TEMPORARY_MARK
from llama3.errors import ArtifactError

OTHER_BEGUN = ArtifactError.declare(
    "L3-RED-001", "this red team was begun with other {what}", fix="name another --out, or remove this folder"
)
NOT_BEGUN = ArtifactError.declare(
    "L3-RED-002",
    "this folder was not begun by a red team",
    why="it holds {holds}, and no {state}",
    fix="name another --out",
)
UNREADABLE = ArtifactError.declare(
    "L3-RED-015",
    "what this red team was begun with cannot be read",
    why="{state} is damaged or gone",
    fix="name another --out",
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
            raise NOT_BEGUN(folder, holds=path.name, state=STATE)


class Journal(BegunLines):
    """The attempts in a folder, begun with `made_of` (plain data by name). Opening drops rows behind the last whole
    round. Raises ArtifactError where they are another red team's, damaged, or in use; nothing is changed then."""

    def __init__(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        require_ours(folder)
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / ATTEMPTS, folder / STATE, made_of, BegunErrors(BUSY, UNREADABLE, OTHER_BEGUN))
        self.folder = folder
        self.rounds: list[list[dict[str, Any]]] = []
        self._round: list[dict[str, Any]] = []
        try:
            self.read(self._take)
        except BaseException:
            self.close()
            raise

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        return [row for rows in self.rounds for row in rows]

    def add_round(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add a round."""
        marked = [{**row, "last": number == len(rows)} for number, row in enumerate(rows, 1)]
        self.append(marked)
        self.sync()
        self.rounds.append(marked)

    def drop_round(self) -> None:
        """Forget the last round, which is to be done again."""
        self.rounds.pop()
        self.cut(sum(len(line_of(row)) for row in self.attempts))

    def _take(self, line: bytes, number: int) -> bool:
        self._round.append(self._row(line, number))
        if is_last := bool(self._round[-1]["last"]):
            self.rounds.append(self._round)
            self._round = []
        return is_last

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
