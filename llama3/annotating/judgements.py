"""What may be said of an item, in a form and in a line of a file, and what is wrong with what cannot be said.

Of a pair: which answer is better, on four levels (paper 4.2.1), or that they are alike, or nothing (skipped); with an
edit of the better answer, which then stands above both (edited > chosen > rejected), and with what the user says next,
which goes on with the dialog. Of a text: that it is right, that it must not be learnt from, or how it should read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llama3.errors import DataError, Problem

STRENGTHS = ("significantly better", "better", "slightly better", "marginally better")
"""Most clearly first."""
TIE, SKIP = "tie", "skip"
KEEP, REJECT, EDIT = "keep", "reject", "edit"
SIDES = ("left", "right")

ODD_FIELD = DataError.declare("L3-ANN-010", "{field} is {value}", why="{wanted}", fix="mend the line, or remove it")
NO_VERDICT = DataError.declare("L3-ANN-011", "nothing is chosen", fix="choose one of the verdicts")
EDITED_NOTHING = DataError.declare(
    "L3-ANN-012", "an answer was edited, but it is not said to be better", fix="choose it, or undo the edit"
)
EDITED_WORSE = DataError.declare(
    "L3-ANN-013", "the worse answer was edited", why="an edit stands above both answers", fix="edit the better one"
)
EMPTY_EDIT = DataError.declare("L3-ANN-014", "the edited text is empty", fix="write it, or undo the edit")
EDIT_IS_OTHER = DataError.declare(
    "L3-ANN-015", "the edited answer is the other answer", fix="choose the other answer, or undo the edit"
)
NO_REASON = DataError.declare("L3-ANN-016", "a reason is missing", why="the text is not kept as it is", fix="write it")
NO_EDIT = DataError.declare("L3-ANN-017", "the text is as it was", fix="edit it, or choose another verdict")
EDIT_NOT_CHOSEN = DataError.declare(
    "L3-ANN-018", "the text was edited, but the verdict is {verdict}", fix="choose edit, or undo the edit"
)


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an annotator said of an item, and how many times of this item before (`number`).

    Of a pair `verdict` is a strength, "tie" or "skip"; `left` is the answer that stood on the left (0 or 1), `chosen`
    the better one. Of a text it is "keep", "reject" or "edit", with a `reason`.
    """

    item: str
    number: int
    verdict: str
    at: str
    """When, as ISO 8601."""
    edited: str | None = None
    left: int | None = None
    chosen: int | None = None
    next: str | None = None
    """What the user says after the better answer."""
    reason: str = ""

    def same_as(self, other: Annotation) -> bool:
        """Whether both say the same, whenever that was."""
        return asdict(self) | {"at": ""} == asdict(other) | {"at": ""}

    def to_json(self) -> dict[str, Any]:
        """A line of the file."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


def pair_line(row: Mapping[str, Any], where: str) -> Annotation:
    """A line of what somebody said of pairs. Raises DataError."""
    judgement = _line(row, where, (*STRENGTHS, TIE, SKIP), ("left", "chosen", "next"))
    wrong: list[Problem] = []
    chosen = {0, 1} if judgement.verdict in STRENGTHS else {None}
    for field, allowed in (("left", {0, 1}), ("chosen", chosen)):
        value = getattr(judgement, field)
        if value not in allowed or isinstance(value, bool):
            wanted = "only the better one of two answers is chosen" if None in allowed else "it is 0 or 1"
            wrong.append(ODD_FIELD.problem(where, field=field, value=repr(value), wanted=wanted))
    for field in ("edited", "next"):
        if getattr(judgement, field) is not None and judgement.verdict not in STRENGTHS:
            value, wanted = repr(getattr(judgement, field))[:40], "only after a better answer there can be one"
            wrong.append(ODD_FIELD.problem(where, field=field, value=value, wanted=wanted))
    if wrong:
        raise DataError.of(wrong)
    return judgement


def check_line(row: Mapping[str, Any], where: str) -> Annotation:
    """A line of what somebody said of synthetic texts. Raises DataError."""
    judgement = _line(row, where, (KEEP, REJECT, EDIT), ("reason",))
    if (judgement.edited is not None) != (judgement.verdict == EDIT):
        value = repr(judgement.edited)[:40]
        raise ODD_FIELD(where, field="edited", value=value, wanted="it belongs to the verdict edit")
    return judgement


def _line(row: Mapping[str, Any], where: str, verdicts: Sequence[str], more: Sequence[str]) -> Annotation:
    types = {"item": str, "number": int, "verdict": str, "at": str, "edited": str}
    types |= {name: int if name in ("left", "chosen") else str for name in more}
    wrong = [
        ODD_FIELD.problem(where, field=name, value=repr(row[name])[:40], wanted=f"no such field: {', '.join(types)}")
        for name in row.keys() - types
    ]
    for name, kind in types.items():
        value, is_needed = row.get(name), name in ("item", "number", "verdict", "at")
        if (is_needed or name in row) and (not isinstance(value, kind) or isinstance(value, bool)):
            told = repr(value)[:40] if name in row else "missing"
            wrong.append(ODD_FIELD.problem(where, field=name, value=told, wanted=f"it is {_KINDS[kind]}"))
    if not wrong and row["verdict"] not in verdicts:
        value = repr(row["verdict"])[:40]
        wrong.append(ODD_FIELD.problem(where, field="verdict", value=value, wanted=f"one of {', '.join(verdicts)}"))
    if wrong:
        raise DataError.of(wrong)
    return Annotation(**row)


_KINDS = {str: "text", int: "a whole number"}


def chosen_of(choice: str) -> tuple[str, str | None]:
    """The verdict and the chosen side of a choice in a form, such as "left:better" or "tie". Raises DataError."""
    side, _, strength = choice.rpartition(":")
    if side in SIDES and strength in STRENGTHS:
        return strength, side
    if choice in (TIE, SKIP):
        return choice, None
    raise NO_VERDICT("verdict")


def edit_of(chosen: int | None, answers: Sequence[str], edited: Sequence[str]) -> str | None:
    """The edit of the chosen answer; `edited` are both answers as they stand in the form. Raises DataError."""
    changed = [_plain(new) != _plain(old) for new, old in zip(edited, answers, strict=True)]
    if not any(changed):
        return None
    if chosen is None:
        raise EDITED_NOTHING("edit")
    if changed[1 - chosen]:
        raise EDITED_WORSE("edit")
    if not edited[chosen].strip():
        raise EMPTY_EDIT("edit")
    if _plain(edited[chosen]) == _plain(answers[1 - chosen]):
        raise EDIT_IS_OTHER("edit")
    return _plain(edited[chosen])


def checked_edit(verdict: str, text: str, edited: str, reason: str) -> str | None:
    """The edit of a synthetic text, as it stands in the form. Raises DataError with all that is wrong."""
    changed = _plain(edited) != _plain(text)
    wrong: list[Problem] = []
    if verdict not in (KEEP, REJECT, EDIT):
        wrong.append(NO_VERDICT.problem("verdict"))
    elif verdict == EDIT and not changed:
        wrong.append(NO_EDIT.problem("edit"))
    elif verdict == EDIT and not edited.strip():
        wrong.append(EMPTY_EDIT.problem("edit"))
    elif verdict != EDIT and changed:
        wrong.append(EDIT_NOT_CHOSEN.problem("edit", verdict=verdict))
    if verdict in (REJECT, EDIT) and not reason.strip():
        wrong.append(NO_REASON.problem("reason"))
    if wrong:
        raise DataError.of(wrong)
    return _plain(edited) if verdict == EDIT else None


def _plain(text: str) -> str:
    """With the line breaks that forms turn into two characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
