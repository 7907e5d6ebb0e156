"""`llama3 compare`: runs side by side."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.output import JsonOption, note, print_json, print_table
from llama3.errors import ArtifactError, ConfigError, Problem

if TYPE_CHECKING:
    from llama3.artifacts import Artifact

NO_RUN = ArtifactError.declare(
    "L3-EVL-090",
    "this is no run",
    why="it has no config.yaml",
    fix="name a folder that llama3 run made, such as runs/a",
)
NOT_MEASURED = ArtifactError.declare(
    "L3-EVL-091",
    "no evaluation of the model {model} is here",
    why="{why}",
    fix="let the run end (llama3 run), or name models that it has by --model",
)
ONE_MODEL = ConfigError.declare(
    "L3-EVL-092", "there is one model, and nothing to compare it with", fix="name two runs, or two models by --model"
)
FINAL = "final"
PREFIX = "evaluate-"


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs; the first is what the others are compared with.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Which models of each run: base, sft, final, int8, small-final-2 ... Repeatable; default: final."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for comparison.json and .html.")] = None,
    json: JsonOption = False,
) -> None:
    """Put runs side by side, suite by suite, item by item, each against the first: what was a change of the config
    worth?"""
    evaluations = _evaluations(runs, list(dict.fromkeys(model or [FINAL])))
    if len(evaluations) < 2:
        raise ONE_MODEL("runs")

    from llama3.evaluation.comparison import TABLE_HEAD, comparison_rows, side_by_side

    found = side_by_side(evaluations)
    if out is not None:
        _publish(found, runs, out)
    if json:
        print_json(found)
        return
    print_table(list(comparison_rows(found)), [title.upper() for title in TABLE_HEAD])
    note(f"changes are against {found['models'][0]}: positive where a model is better, with 95 % intervals")
    if out is not None:
        note(f"details: {out / 'comparison.json'}, {out / 'comparison.html'}")


def _evaluations(runs: Sequence[Path], models: Sequence[str]) -> dict[str, Artifact]:
    """By the name of run and model. Raises ArtifactError with all that is missing."""
    from llama3.artifacts.run import RunDir

    names = _names(runs)
    found: dict[str, Artifact] = {}
    problems: list[Problem] = []
    for run in dict.fromkeys(runs):
        if not (run / "config.yaml").is_file():
            problems.append(NO_RUN.problem(run))
            continue
        there = RunDir(run).current()
        known = {key.replace(PREFIX, "", 1): there[key] for key in there if PREFIX in key}
        for model in models:
            if model in known:
                found[names[run] if len(models) == 1 else f"{names[run]} {model}"] = known[model]
            else:
                why = f"measured are {', '.join(known)}" if known else "none of its models was measured"
                problems.append(NOT_MEASURED.problem(run, model=model, why=why))
    if problems:
        raise ArtifactError.of(problems)
    return found


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """The name of each run, and its path where two have one."""
    own = [run.resolve().name for run in dict.fromkeys(runs)]
    return {run: str(run) if own.count(name) > 1 else name for run, name in zip(dict.fromkeys(runs), own, strict=True)}


def _publish(found: dict[str, Any], runs: Sequence[Path], out: Path) -> None:
    from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
    from llama3.evaluation.comparison_page import render_comparison

    names = _names(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "comparison.json", found)
    curves = {names[run]: told for run in names if (told := _curves(run))}
    write_bytes_atomic(out / "comparison.html", render_comparison(found, curves).encode())


def _curves(run: Path) -> dict[str, Any]:
    """Those of a run's report; none where it has no report that can be read."""
    try:
        told: dict[str, Any] = jsonlib.loads((run / "report.json").read_text("utf-8"))["curves"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return told
