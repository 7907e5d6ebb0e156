"""`llama3 compare`: runs side by side."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.output import JsonOption, note, print_json, print_table
from llama3.errors import ArtifactError, ConfigError

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
            help="Which models of each run: base, sft, final, int8, small-final-2 ... Repeatable; default: final. "
            "In a herd, base, sft and final are those of its first size unless a size stands before them."
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
    note(
        f"changes are against {found['models'][0]}: positive where a model is better, in points (pt) of shares and "
        "percent of costs, with 95 % intervals"
    )
    if out is not None:
        note(f"details: {out / 'comparison.json'}, {out / 'comparison.html'}")


def _evaluations(runs: Sequence[Path], models: Sequence[str]) -> dict[str, Artifact]:
    """By the name of run and model. A model that a run lacks is left out there where others have it, so that runs of
    different models stand side by side. Raises ArtifactError with all that is missing."""
    from llama3.artifacts.run import RunDir

    names = _names(runs)
    problems = [NO_RUN.problem(run) for run in names if not (run / "config.yaml").is_file()]
    known = {run: _measured(RunDir(run).current()) for run in names if (run / "config.yaml").is_file()}
    found: dict[str, Artifact] = {}
    for run, there in known.items():
        for model in models:
            name = names[run] if len(models) == 1 else f"{names[run]} {model}"
            if model in there:
                found[name] = there[model]
            elif there.keys().isdisjoint(models) or all(model not in others for others in known.values()):
                why = f"measured are {', '.join(there)}" if there else "none of its models was measured"
                problems.append(NOT_MEASURED.problem(run, model=model, why=why))
            else:
                note(f"{name}: not measured, left out")
    if problems:
        raise ArtifactError.of(problems)
    return found


def _measured(there: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The evaluations of a run by model. Those of a herd's first size, whose model is meant by the whole run's `final`,
    stand without its name too."""
    known = {key.replace(PREFIX, "", 1): made for key, made in there.items() if PREFIX in key}
    if FINAL in known or FINAL not in there:
        return known
    for key, evaluation in known.items():
        size = key.removesuffix(FINAL)
        if size != key and any(parent.hash == there[FINAL].hash for parent in evaluation.manifest.parents):
            return known | {key.removeprefix(size): made for key, made in known.items() if key.startswith(size)}
    return known


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
