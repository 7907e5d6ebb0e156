"""A herd of three sizes over three rounds, and whether each step is worth what the paper says of it.

`llama3 run` makes the models (it goes on where it was stopped); this holds its report against the floors: each
round's last model above the one before, the preference step above 0 in at least one round for DPO and for an algorithm
that draws its own answers, averaging that never loses, and a teacher that is worth more than as many examples of the
learner's own. A herd without such a step is not asked for it. Every change is paired, on the same held-out tasks, with
its 95 % interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import common

import llama3
from llama3.evaluation.herd_figures import STEP_HEAD, step_table
from llama3.evaluation.told_changes import change_cells
from llama3.sized import CONTROL

SUITE = "pass_rate"
LEAST_TASKS = 1000
ROLLOUTS = ("grpo", "ppo")
Row = Mapping[str, Any]


def floors(herd: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """What must hold of a herd's figures, whether it does, and what was found instead."""
    steps = [row for row in herd["steps"] if row["suite"] == SUITE]
    tasks = min(row["figure"]["n"] for row in herd["rounds"] if row["suite"] == SUITE)
    yield f"at least {LEAST_TASKS} held-out tasks", tasks >= LEAST_TASKS, str(tasks)
    taught = [name for name in herd["sizes"] if not name.endswith(CONTROL)]
    for size in taught:
        lost = [row for row in of(steps, "round", size) if not row["low"] > 0]
        yield f"{size}: every round is above the one before", not lost, told(lost)
    for names in (("dpo",), ROLLOUTS):
        users = [size for size in taught if herd["sizes"][size]["algorithm"] in names]
        rows = [row for size in users for row in of(steps, "preference", size)]
        if users:
            yield f"{' or '.join(names)}: adds something in a round", any(row["low"] > 0 for row in rows), told(rows)
    lost = [row for row in steps if row["step"].startswith("averaging") and row["high"] < 0]
    yield "averaging never loses", not lost, told(lost)
    rows = [row for row in steps if row["step"] == "teacher"]
    last = max((row["round"] for row in rows), default=0)
    ends = [row for row in rows if row["round"] == last]
    if any(about["teacher"] for about in herd["sizes"].values()):
        yield "a teacher is worth more than none", bool(ends) and all(row["low"] > 0 for row in ends), told(ends)


def of(steps: Sequence[Row], step: str, size: str) -> list[Row]:
    """The rows of one step of one size."""
    return [row for row in steps if (row["step"], row["size"]) == (step, size)]


def told(rows: Sequence[Row]) -> str:
    """Changes of shares with their intervals."""
    cells = ((row, change_cells(row["change"], row["low"], row["high"], "higher")) for row in rows)
    return "; ".join(f"{row['size']} {row['round']}: {change} {ends}" for row, (change, ends) in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="herd", help="a preset or a file with sizes")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    started = time.monotonic()
    run = llama3.run(options.config, options.overrides)
    herd = run.report["herd"]
    for row in [STEP_HEAD, *step_table(herd)]:
        print("  ".join(f"{cell:<22}" if n == 2 else f"{cell:<12}" for n, cell in enumerate(row)))
    results = {name: {"holds": holds, "found": found} for name, holds, found in floors(herd)}
    for name, row in results.items():
        print(f"{'ok    ' if row['holds'] else 'MISSED'} {name}: {row['found']}")
    stages = run.report["seconds"]
    written = common.write_results(
        run.report["run"].replace("-", "_"),
        {
            "floors": results,
            "sizes": herd["sizes"],
            "steps": [row for row in herd["steps"] if row["suite"] == SUITE],
            "rounds": [row for row in herd["rounds"] if row["suite"] == SUITE],
            "seconds": {"stages": round(sum(stages.values())), "now": round(time.monotonic() - started)},
        },
    )
    print(f"written to {written}")


if __name__ == "__main__":
    main()
