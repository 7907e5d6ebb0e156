"""Rows that a prompt guard learns from: {text, label[, trust][, source][, group]}, one JSON object per line.

label: "attack" or "benign" (1 and 0, true and false too; "toxic" is the same as "attack")
trust: "user" or "third_party", whose text it is; without it the row counts for both
source: where it comes from, for figures by source; without it the name of the file
group: what belongs together, such as an attack and its borderline twin, and stands on one side; without it the text
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama3.errors import DataError, Problem
from llama3.guarding.lines import read_lines
from llama3.guarding.reading import unfolded

NO_TEXT = DataError.declare("L3-GRD-001", "{column} is no text", fix="give a text that is not empty")
ODD_LABEL = DataError.declare("L3-GRD-002", "the label is {label!r}", fix="write attack (or toxic) or benign (1 or 0)")
ODD_TRUST = DataError.declare(
    "L3-GRD-003", "the trust is {trust!r}", fix="write user or third_party, or leave the column out"
)
ODD_COLUMNS = DataError.declare("L3-GRD-004", "unknown columns {columns}", fix="remove them; known: {known}")
ON_BOTH_SIDES = DataError.declare(
    "L3-GRD-005", "the same text is an attack in one row and harmless in another", fix="drop one of the two"
)
MORE = DataError.declare("L3-GRD-006", "and {count} more problems")

ClassifierKind = Literal["prompt_guard", "toxicity"]
"""What a small classifier was trained to find: attacks on the prompt, or toxic texts."""
Trusted = Literal["user", "third_party"]
Side = Literal["train", "calibrate", "test"]
TRUSTS: tuple[Trusted, ...] = ("user", "third_party")
COLUMNS = ("text", "label", "trust", "source", "group")
MOST_PROBLEMS = 20
_LABELS: Mapping[object, bool] = {"attack": True, "toxic": True, "benign": False, 1: True, 0: False}


@dataclass(frozen=True, slots=True)
class PromptRow:
    """`trust` is None where the row counts for both."""

    text: str
    is_attack: bool
    trust: Trusted | None
    source: str
    group: str

    def counts_for(self, trust: Trusted) -> bool:
        return self.trust in (None, trust)


def read_prompt_rows(paths: Sequence[Path]) -> list[PromptRow]:
    """The rows of all files, each text once. Raises DataError with what is wrong, at most MOST_PROBLEMS at once."""
    problems: list[Problem] = []
    kept: dict[str, PromptRow] = {}
    for path in paths:
        for where, row in read_lines(path, problems):
            if found := list(_problems(row, where)):
                problems += found
                continue
            made = _row(row, path)
            if kept.setdefault(made.text, made).is_attack != made.is_attack:
                problems.append(ON_BOTH_SIDES.problem(where))
    refuse(problems)
    return list(kept.values())


def refuse(problems: Sequence[Problem]) -> None:
    """Raises DataError where there are any: with the first of them, and how many more."""
    if problems:
        more = [MORE.problem("data", count=len(problems) - MOST_PROBLEMS)] if len(problems) > MOST_PROBLEMS else []
        raise DataError.of([*problems[:MOST_PROBLEMS], *more])


def _problems(row: Mapping[str, Any], where: str) -> Iterable[Problem]:
    if unknown := sorted(row.keys() - set(COLUMNS)):
        yield ODD_COLUMNS.problem(where, columns=unknown, known=list(COLUMNS))
    for column in ("text", "source", "group"):
        value = row.get(column, None if column == "text" else "-")
        if not isinstance(value, str) or not value.strip():
            yield NO_TEXT.problem(where, column=column)
    if not isinstance(row.get("label"), str | int) or row["label"] not in _LABELS:
        yield ODD_LABEL.problem(where, label=row.get("label"))
    if row.get("trust") not in (None, *TRUSTS):
        yield ODD_TRUST.problem(where, trust=row["trust"])


def _row(row: Mapping[str, Any], path: Path) -> PromptRow:
    text = row["text"]
    return PromptRow(
        text, _LABELS[row["label"]], row.get("trust"), row.get("source", path.stem), row.get("group", text)
    )


def side_of(row: PromptRow, held_out: float) -> Side:
    """By the hash of its group as a guard reads it: half of the held-out share calibrates, half tests."""
    place = place_of(unfolded(row.group).text)
    if place >= held_out:
        return "train"
    return "calibrate" if place < held_out / 2 else "test"


def place_of(text: str) -> float:
    """Where a text stands from 0 to 1: a function of the text alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
