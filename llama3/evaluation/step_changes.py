"""What each step of training changed, measured on the same items before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from llama3.artifacts import Artifact
from llama3.evaluation.audit import shown_rate
from llama3.evaluation.comparison import side_by_side
from llama3.evaluation.told_changes import change_cells

STATIONS = ("base", "sft", "final")
"""What a model is called after pretraining, after supervised finetuning and in the end."""
TABLE_HEAD = ("suite", "step", "before", "after", "change", "95 % interval", "")


def step_changes(evaluations: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """A row for every suite and step, and for the whole way where it has several: {suite, from, to, better, scored,
    before, after, change, paired_low, paired_high, way, why}, figures and changes as `side_by_side` has them."""
    there = [name for name in STATIONS if name in evaluations]
    steps = list(pairwise(there)) + ([(there[0], there[-1])] if len(there) > 2 else [])
    rows = [row for old, new in steps for row in _step(old, new, evaluations)]
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    return sorted(rows, key=lambda row: suites.index(row["suite"]))


def _step(old: str, new: str, evaluations: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
    found = side_by_side({old: evaluations[old], new: evaluations[new]})
    for suite, told in found["suites"].items():
        row = told["models"][new]
        yield {
            "suite": suite,
            "from": old,
            "to": new,
            "better": told["better"],
            "scored": told["scored"],
            "before": told["models"][old]["figure"],
            "after": row["figure"],
            **{key: row[key] for key in ("change", "paired_low", "paired_high", "way", "why")},
        }


def change_of(changes: Sequence[Mapping[str, Any]], suite: str, old: str, new: str) -> Mapping[str, Any] | None:
    """The row of a suite and a step; None where it was not measured or is not known."""
    rows = (row for row in changes if (row["suite"], row["from"], row["to"]) == (suite, old, new))
    return next((row for row in rows if row["change"] is not None), None)


def told_change(row: Mapping[str, Any]) -> str:
    """`+3.3 points [+1.2, +5.4]: better` of shares; of costs by how many percent the model got better."""
    change, ends = _cells(row)
    return f"{change.replace('pt', 'points')} {ends}: {row['way']}"


def _cells(row: Mapping[str, Any]) -> tuple[str, str]:
    return change_cells(row["change"], row["paired_low"], row["paired_high"], row["better"])


def table(changes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The rows for people: TABLE_HEAD."""
    for row in changes:
        suite = f"{row['suite']}, {row['scored']}" if row["scored"] else row["suite"]
        figures = (shown_rate(row[when], row["better"]) for when in ("before", "after"))
        step = f"{row['from']} to {row['to']}"
        if row["change"] is None:
            yield suite, step, *figures, "-", "-", row["why"]
            continue
        yield suite, step, *figures, *_cells(row), row["way"]
