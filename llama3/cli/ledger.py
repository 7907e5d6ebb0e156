"""`llama3 ledger`: what a run lost to faults, and that it lost no sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llama3.cli.output import JsonOption, print_json, print_table, say
from llama3.errors import ArtifactError

NO_LEDGER = ArtifactError.declare(
    "L3-RUN-023",
    "has no ledger",
    why="no training stage has begun in this run directory",
    fix="give the directory of a run that has trained, such as runs/quickstart",
)


def ledger(
    run: Annotated[str, typer.Argument(help="Directory of a run.")],
    json: JsonOption = False,
) -> None:
    """Show effective training time, interruptions by cause, stragglers by rank. Exit code 1 where samples are not the
    planned ones."""
    from llama3.training.effective_time import summary

    told = summary(Path(run))
    if not told["stages"]:
        raise NO_LEDGER(run)
    if json:
        print_json(told)
    else:
        show(told)
    if any(stage["problems"] for stage in told["stages"]):
        raise typer.Exit(1)


def show(told: Mapping[str, Any]) -> None:
    """As tables."""
    useful, elapsed = told["useful_seconds"], told["elapsed_seconds"]
    print_table(
        [
            ("effective training time", f"{useful / elapsed:.1%}" if elapsed else "-"),
            ("useful of elapsed", f"{useful:.1f} s of {elapsed:.1f} s"),
            ("checkpoints", f"{told['saving_seconds']:.1f} s"),
            ("interruptions", _interruptions(told["interruptions"])),
        ]
    )
    say()
    print_table([_stage(stage) for stage in told["stages"]], ("STAGE", "STEPS", "EFFECTIVE", "DONE AGAIN", "SAMPLES"))
    for stage in told["stages"]:
        for data, documents in stage["left_out"].items():
            say(f"{stage['artifact']}: left out the data of step {int(data) + 1}: {_some(documents)}")
        for step, why in stage["skipped"].items():
            say(f"{stage['artifact']}: skipped the update of step {step}: {why}")
    if told["causes"]:
        say()
        columns = ("CAUSE", "CATEGORY", "COUNT", "SHARE", "LOST STEPS", "DETECT", "RESTART", "LOAD", "CATCH UP")
        print_table([_cause(row) for row in told["causes"]], columns)
    if told["ranks"]:
        say()
        rows = [(str(row["rank"]), f"{row['own']:.1f} s", f"{row['waited']:.1f} s") for row in told["ranks"]]
        print_table(rows, ("RANK", "OWN WORK", "WAITED FOR OTHERS"))
    for line in (*told["other_ranks"], *([f"last hang: {told['behind']}"] if told["behind"] else [])):
        say(line)


def _interruptions(hits: list[dict[str, Any]]) -> str:
    planned = sum(hit["planned"] for hit in hits)
    return f"{len(hits)} ({planned} planned, {len(hits) - planned} unexpected)"


def _stage(stage: Mapping[str, Any]) -> tuple[str, ...]:
    others = f", {stage['healed_steps']} steps by other replica groups" if stage["healed_steps"] else ""
    samples = "; ".join(stage["problems"]) or f"as planned, each once{others}"
    return (
        stage["artifact"],
        f"{stage['finished']}/{stage['steps']}",
        f"{stage['effective_training_time']:.1%}",
        str(stage["repeated_steps"]),
        samples,
    )


def _cause(row: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{row[part]:.1f} s" for part in ("detect", "restart", "load", "catch_up"))
    return (row["cause"], row["category"], str(row["count"]), f"{row['share']:.1%}", f"{row['lost_steps']:.1f}", *times)


def _some(documents: list[str]) -> str:
    shown = ", ".join(documents[:4]) or "its dataset names no documents"
    return f"{shown} and {len(documents) - 4} more documents" if len(documents) > 4 else shown
