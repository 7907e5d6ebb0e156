"""What each step of training changed: `changes` of a report, from evaluations of the same items."""

from __future__ import annotations

import re

from llama3.evaluation.step_changes import TABLE_HEAD, change_of, step_changes, table, told_change


def scored(evaluation, name: str, right: int, bits: float):
    """An evaluation of 100 tasks, the first `right` of which were solved, and of 20 documents."""
    tasks = [{"id": f"t{n}", "prompt": str(n), "score": float(n < right)} for n in range(100)]
    text = [{"id": f"d{n}", "score": bits * 100 * (1 + n % 3), "weight": 100.0 * (1 + n % 3)} for n in range(20)]
    return evaluation(name, {"tasks": tasks, "text": text})


def test_every_step_and_the_whole_way_have_paired_intervals(evaluation) -> None:
    made = {name: scored(evaluation, name, right, bits) for name, right, bits in
            (("base", 0, 1.5), ("sft", 50, 1.6), ("final", 60, 1.56), ("int8", 59, 1.57))}  # fmt: skip
    rows = step_changes(made)
    assert [(row["suite"], row["from"], row["to"]) for row in rows] == [
        (suite, *step) for suite in ("tasks", "text") for step in (("base", "sft"), ("sft", "final"), ("base", "final"))
    ]
    preferred = change_of(rows, "tasks", "sft", "final")
    assert preferred is not None
    assert (preferred["before"]["rate"], preferred["after"]["rate"], preferred["before"]["n"]) == (0.5, 0.6, 100)
    assert preferred["change"] == 0.6 - 0.5
    assert 0 < preferred["paired_low"] < preferred["change"] < preferred["paired_high"]
    assert re.fullmatch(r"\+10\.0 points \[\+\d\.\d, \+\d\d\.\d\]: better", told_change(preferred))
    kept = change_of(rows, "text", "base", "final")
    assert kept is not None
    assert abs(kept["change"] + 0.04) < 1e-9, "costs change relatively, and a rise is a loss"
    assert told_change(kept) == "-4.0 % [-4.0, -4.0]: worse"
    shown = list(table(rows))
    assert all(len(row) == len(TABLE_HEAD) for row in shown)
    assert {row[0]: row[4] for row in shown if row[1] == "base to final"} == {"tasks": "+60.0 pt", "text": "-4.0 %"}
    assert shown[-1][5] == "[-4.0, -4.0]"


def test_what_cannot_be_compared_says_why(evaluation) -> None:
    other = {"tasks": [{"id": "x", "prompt": "x", "score": 1.0}]}
    made = {"base": scored(evaluation, "base", 0, 1.5), "final": evaluation("final", other)}
    rows = step_changes(made)
    assert [(row["from"], row["to"], row["change"]) for row in rows] == [("base", "final", None)] * 2
    assert change_of(rows, "tasks", "base", "final") is None
    assert "the items differ" in next(iter(table(rows)))[-1]
    assert step_changes({"base": made["base"]}) == []
