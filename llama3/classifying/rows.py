"""Labelled rows: `{"text": ..., "label": ...}`, one JSON value a line, and which of them are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3.data.corpus import split_of
from llama3.errors import DataError, Problem
from llama3.foreign import json_lines

UNREADABLE = DataError.declare("L3-CLS-010", "cannot read labelled rows", why="{error}")
BAD_ROW = DataError.declare(
    "L3-CLS-011", "no labelled row", why="{why}", fix='write {{"text": "...", "label": "..."}}, one a line'
)
TWO_LABELS = DataError.declare(
    "L3-CLS-012",
    "a text has the labels {labels}",
    why="{text!r}",
    fix="leave all rows of it out but those of one label",
)
FEW_ROWS = DataError.declare(
    "L3-CLS-013",
    "the label {label!r} has {train} texts to learn from and {held_out} to be measured on",
    why="each label needs {least} of both",
    fix="add rows of it, leave the label out, or change --held-out",
)

LEAST = 5
"""Texts of each label, on both sides."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and what it is."""

    text: str
    label: str


def read_labelled_texts(path: Path) -> list[LabelledText]:
    """The rows of a file, each text once. Raises DataError (L3-CLS-010 to 012) with all that is wrong with it."""
    try:
        content = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UNREADABLE(path, error=error) from error
    found: dict[str, set[str]] = {}
    problems: list[Problem] = []
    for number, row in json_lines(content):
        text, label = (row.get("text"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(text, str) or not text.strip() or not isinstance(label, str) or not _is_label(label):
            why = "text and label are texts that are not empty; a label has no blanks"
            problems.append(BAD_ROW.problem(f"{path}:{number}", why=why))
            continue
        found.setdefault(text, set()).add(label)
    problems += [
        TWO_LABELS.problem(path, labels=sorted(labels), text=text[:60])
        for text, labels in found.items()
        if len(labels) > 1
    ]
    if problems:
        raise DataError.of(problems)
    return [LabelledText(text, *labels) for text, labels in found.items()]


def _is_label(label: str) -> bool:
    return bool(label) and label.isprintable() and not any(map(str.isspace, label))


def split_rows(
    rows: Sequence[LabelledText], held_out: float, where: object
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Those to learn from and those that are held out: by the text alone, so that more rows move none.

    Raises DataError (L3-CLS-013) for all labels with too few on a side, or where there is one label.
    """
    sides: dict[str, list[LabelledText]] = {"train": [], "held_out": []}
    for row in rows:
        sides[split_of(row.text, held_out)].append(row)
    train, measured = (Counter(row.label for row in of_side) for of_side in sides.values())
    labels = sorted({row.label for row in rows})
    problems = [
        FEW_ROWS.problem(where, label=label, train=train[label], held_out=measured[label], least=LEAST)
        for label in (labels if len(labels) > 1 else [*labels, "another"])
        if min(train[label], measured[label]) < LEAST
    ]
    if problems:
        raise DataError.of(problems)
    return sides["train"], sides["held_out"]
