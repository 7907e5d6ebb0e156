"""Models side by side: what their evaluations say of the same items, each against the first.

Nothing is passed or failed here (that is an audit, llama3.evaluation.audit): each change has its 95 % interval, and
says nothing where that holds 0. Each interval holds for itself: of twenty models one will look better by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama3.artifacts import Artifact
from llama3.evaluation.audit import AuditOptions, Suite, compare, different_conditions, read_suites, shown_rate
from llama3.evaluation.intervals import way
from llama3.evaluation.told_changes import change_cells

_ANY = AuditOptions(suites=[], margin=0.5, relative_margin=0.5, margins={}, must_improve=[], seed=0)
"""Of an audit, whose verdicts play no part here."""
TABLE_HEAD = ("suite", "model", "figure", "change", "interval", "")


def side_by_side(evaluations: Mapping[str, Artifact]) -> dict[str, Any]:
    """The figures of all suites of evaluations by model, the first of which is what the others are compared with:

    {models: [NAME], suites: {SUITE: {better, scored, models: {NAME: {figure: {rate, low, high, n}, change, paired_low,
    paired_high, way, families, why}}}}}. A change is positive where the model is better: in points for shares, as a
    part of the first one's for costs. What is not known is null, and `why` says why.
    """
    names = list(evaluations)
    suites = {name: read_suites(evaluation) for name, evaluation in evaluations.items()}
    faults = {name: "; ".join(different_conditions(evaluations[names[0]], evaluations[name])) for name in names}
    labels = dict.fromkeys(label for found in suites.values() for label in found)
    return {"models": names, "suites": {label: _suite(label, suites, faults) for label in labels}}


def _suite(label: str, suites: Mapping[str, Mapping[str, Suite]], faults: Mapping[str, str]) -> dict[str, Any]:
    first, *_ = suites
    rows = {name: compare(label, suites[first].get(label), found.get(label), _ANY) for name, found in suites.items()}
    alone = {name: compare(label, found.get(label), found.get(label), _ANY) for name, found in suites.items()}
    told = next((row for row in alone.values() if row["after"]), alone[first])
    return {
        "better": told["better"],
        "scored": told["scored"],
        "models": {
            name: _against(row, alone[name], is_first=name == first, fault=faults[name]) for name, row in rows.items()
        },
    }


def _against(row: Mapping[str, Any], alone: Mapping[str, Any], *, is_first: bool, fault: str) -> dict[str, Any]:
    """One model's row. `alone`: the same suite held against itself, which tells whether it was measured at all."""
    told: dict[str, Any] = {
        "figure": alone["after"],
        **dict.fromkeys(("change", "paired_low", "paired_high")),
        "way": "",
        "families": {},
        "why": "" if alone["after"] else alone["why"],
    }
    if is_first or not alone["after"]:
        return told
    if fault or not row["comparable"]:
        return {**told, "why": fault or row["why"]}
    old, new = row["before"]["rate"], row["after"]["rate"]
    change = new - old if row["better"] == "higher" else (old - new) / old if old else 0.0
    ends = row["paired_low"], row["paired_high"]
    return {**told, "change": change, "paired_low": ends[0], "paired_high": ends[1], "way": way(*ends),
            "families": row["families"]}  # fmt: skip


def comparison_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table for people: TABLE_HEAD."""
    for label, suite in found["suites"].items():
        title = f"{label}, {suite['scored']}" if suite["scored"] else label
        for name, row in suite["models"].items():
            figure = shown_rate(row["figure"], suite["better"])
            if row["change"] is None:
                yield title, name, figure, "-", "-", row["why"]
            else:
                ends = row["paired_low"], row["paired_high"]
                yield title, name, figure, *change_cells(row["change"], *ends, suite["better"]), row["way"]
