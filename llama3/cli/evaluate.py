"""`llama3 evaluate`: what a model scores on suites, the suite `safety` among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llama3.cli.audit import ModelPath
from llama3.cli.options import plugin_name
from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say
from llama3.errors import LlamaError

if TYPE_CHECKING:
    from llama3.artifacts import Artifact
    from llama3.config import Config, Loaded

SUITE_RAISED = LlamaError.declare(
    "L3-EVL-058",
    "the suite could not be measured",
    why="{error}",
    fix="mend that, and give the same command again: it measures what failed",
)

NOT_MEASURED = LlamaError.declare(
    "L3-EVL-085",
    "the suite was not measured",
    why="{why}",
    fix="name a reward that has tasks under post_training.rewards, or `rewards` in the suite",
)


def evaluate(
    model: ModelPath,
    suite: Annotated[
        list[str] | None, typer.Option(help="A suite of the config, or an evaluator. Repeatable; default: all.")
    ] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Says suites, their options and the text.")] = "adopt",
    overrides: SetOption = None,
    guards: Annotated[
        Literal["model", "config"], typer.Option(help="Whose policy a suite of safety measures.")
    ] = "model",
    out: Annotated[str | None, typer.Option(help="Directory of the evaluation (default: evaluate in run.dir).")] = None,
    json: JsonOption = False,
) -> None:
    """Measure a model on suites; evaluation.json and evaluation.html hold all figures. `--suite safety` tells how often
    it violates and how often it refuses for nothing, with and without its guards."""
    from llama3.preflight import load_config, ready

    loaded = ready(load_config(config, [*(overrides or ()), "model.path=null"]))
    chosen = _chosen(loaded.config, suite or [], model if guards == "model" else None)
    for line in loaded.notes:
        note(f"note: {line}")
    folder = Path(out) if out is not None else Path(loaded.config.run.dir) / "evaluate"

    made = measured(loaded, chosen, model, folder)
    results: dict[str, Any] = dict(made.metrics)
    _publish(model, made, folder)
    problems = [
        SUITE_RAISED.problem(f"suite {name}", error=row["error"]) for name, row in results.items() if "error" in row
    ]
    problems += [
        NOT_MEASURED.problem(f"suite {name}", why=results[name]["not_measured"])
        for name in suite or ()  # asked for by name
        if "not_measured" in results.get(name, {})
    ]
    if json:
        print_json({"ok": not problems, "model": model, "suites": results})
    else:
        show(results)
        note(f"details: {folder / 'evaluation.json'}, {folder / 'evaluation.html'}")
    if problems:
        raise LlamaError.of(problems)


def _chosen(config: Config, names: list[str], model: str | None) -> Config:
    """The config with these suites only, and with the policy of a model where one is named.

    Raises PluginError for a name that is neither a suite nor an evaluator.
    """
    from llama3.cli.guarding import policy_for
    from llama3.config.slot_types import SuiteSlot
    from llama3.plugins.registry import discover

    known = {slot.label: slot for slot in config.evaluation.tasks}
    tasks = []
    for given in names:
        slot = known.get(given) or SuiteSlot(name=plugin_name("evaluators", given))
        discover().options("evaluators", slot.name, slot.options)
        tasks.append(slot)
    sections: dict[str, Any] = {}
    if tasks:
        sections["evaluation"] = config.evaluation.model_copy(update={"tasks": tasks})
    if model is not None:
        policy, source = policy_for(Path(model))
        note(f"guards: {source}")
        sections["safety"] = config.safety.model_copy(update={"policy": policy})
    return config.model_copy(update=sections)


def measured(loaded: Loaded, config: Config, model: str, folder: Path) -> Artifact:
    """The evaluation of a model in a run directory, found where it was made before."""
    from llama3.data.curate import curate
    from llama3.data.curating import CurateOptions
    from llama3.data.ledger import lost_input
    from llama3.evaluation.stages import EvaluateOptions, OutsideModel, specs_of
    from llama3.evaluation.stages import evaluate as evaluate_stage
    from llama3.execution import Executor
    from llama3.given import synthesised

    outside = OutsideModel.at(model)
    with Executor(loaded, folder) as make:
        corpus = None
        if any(spec.with_text for spec in specs_of(config.evaluation.tasks)):
            corpus = make(curate, "curate", CurateOptions.of(config), synthetic=synthesised(make, config))
            make.warn(lost_input(corpus.metrics))
        key = f"evaluate-{outside.blake3[:12]}"
        return make(evaluate_stage, key, EvaluateOptions.of(config, outside), corpus=corpus)


def _publish(model: str, made: Artifact, folder: Path) -> None:
    """evaluation.json and evaluation.html."""
    from llama3.artifacts.files import write_bytes_atomic, write_json_atomic
    from llama3.evaluation.evaluation_page import render_evaluation

    name = Path(model).name or model
    write_json_atomic(folder / "evaluation.json", {"model": name, "evaluation": made.hash, "suites": made.metrics})
    write_bytes_atomic(folder / "evaluation.html", render_evaluation(name, made.metrics).encode())


def show(results: dict[str, Any]) -> None:
    """The figures of every suite; of suites of safety all tables."""
    from llama3.evaluation.evaluation_page import suite_rows
    from llama3.evaluation.safety_tables import is_safety, safety_tables

    print_table(suite_rows(results), ("SUITE", "FIGURE", "VALUE"))
    for suite, row in results.items():
        for table in safety_tables(row) if is_safety(row) else ():
            say(f"\n{suite}: {table.title.lower()}")
            print_table(table.rows, [head.upper() for head in table.head])
