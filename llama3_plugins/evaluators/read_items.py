"""Items of multiple choice from a file, one JSON object per line: context, choices, and the place of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama3.errors import DataError, Problem
from llama3.evaluators import json_lines

NO_FILE = DataError.declare("L3-SCL-022", "cannot read the items", why="{error}")
NO_ITEM = DataError.declare(
    "L3-SCL-023",
    "{what}",
    fix='write {{"context": "The sky is", "choices": [" blue.", " a fish."], "answer": 0}}',
)

Row = tuple[str, tuple[str, ...], int]


def read_items(path: Path) -> list[Row]:
    """(context, choices, answer) of every line. Raises DataError with everything that is wrong, by line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NO_FILE(path, error=error) from None
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, row in json_lines(text):
        faults = list(_faults(row))
        if faults:
            problems += [NO_ITEM.problem(f"{path}:{number}", what=fault) for fault in faults]
        else:
            rows.append((row["context"], tuple(row["choices"]), row["answer"]))
    if not rows and not problems:
        problems.append(NO_ITEM.problem(path, what="the file has no item"))
    if problems:
        raise DataError.of(problems)
    return rows


def _faults(row: Any) -> Iterator[str]:
    """What keeps a line from being an item."""
    if not isinstance(row, dict):
        yield "not a JSON object"
        return
    context, choices, answer = (row.get(name) for name in ("context", "choices", "answer"))
    if not isinstance(context, str):
        yield "context is no text"
    if not (isinstance(choices, list) and len(choices) > 1 and all(isinstance(c, str) and c for c in choices)):
        yield "choices are not two texts or more"
    elif len(set(choices)) < len(choices):
        yield "two choices are the same"
    elif not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        yield f"answer is no place from 0 to {len(choices) - 1}"
