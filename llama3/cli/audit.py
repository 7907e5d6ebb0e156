"""`llama3 audit`: has a model lost anything against another?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama3.cli.output import JsonOption, SetOption, note, print_json, print_table, say
from llama3.errors import GateFailed, LlamaError

if TYPE_CHECKING:
    from llama3.artifacts import Artifact
    from llama3.config import Loaded

ModelPath = Annotated[str, typer.Argument(help="A run, a release, or a model's directory or file.")]


def audit(
    before: ModelPath,
    after: ModelPath,
    config: Annotated[str, typer.Option("--config", "-c", help="Says suites, margins and held-out text.")] = "adopt",
    overrides: SetOption = None,
    out: Annotated[str | None, typer.Option(help="Directory of the audit (default: audit in run.dir).")] = None,
    json: JsonOption = False,
) -> None:
    """Compare two models suite by suite, item by item. Exit code 5 when AFTER may have lost more than a margin."""
    from llama3.preflight import load_config, ready

    # The models are given here: whatever the config names as one plays no part.
    loaded = ready(load_config(config, [*(overrides or ()), "model.path=null"]))
    for line in loaded.notes:
        note(f"note: {line}")
    folder = Path(out) if out is not None else Path(loaded.config.run.dir) / "audit"

    from llama3.evaluation.audit import require_passed  # after the checks: this imports torch

    found = compare(loaded, before, after, folder)
    failed: LlamaError | None = None
    try:
        require_passed(found)
    except GateFailed as error:
        failed = error
    if json:  # `ok` and `problems` as every command that fails has them
        problems = [asdict(problem) for problem in failed.problems] if failed else []
        print_json({"ok": failed is None, "problems": problems, **found.metrics})
    else:
        show(found.metrics)
        note(f"details: {found.location / 'audit.json'}")
    if failed:
        raise failed


def compare(loaded: Loaded, before: str, after: str, folder: Path) -> Artifact:
    """Evaluate both models in the run directory `folder`, where what was evaluated before is found, and audit them.

    Where none of a few documents happens to be held out, none is chosen to be, as a run would: one document shows
    nothing in an audit, and suites of tasks need none.
    """
    from llama3.data.curate import curate
    from llama3.data.ledger import lost_input
    from llama3.evaluation.audit import AuditOptions, audit
    from llama3.evaluation.stages import EvaluateOptions, OutsideModel, evaluate
    from llama3.execution import Executor
    from llama3.given import synthesised
    from llama3.tasks.held_out import corpus_options

    config = loaded.config
    asked = [(model, EvaluateOptions.of(config, model)) for model in map(OutsideModel.at, (before, after))]
    with Executor(loaded, folder) as make:
        corpus = make(curate, "curate", corpus_options(config), synthetic=synthesised(make, config))
        make.warn(lost_input(corpus.metrics))
        # Known by its content: a model is evaluated once, whichever place it takes in this audit and the next.
        old, new = (make(evaluate, f"evaluate-{model.blake3[:12]}", options, corpus=corpus) for model, options in asked)
        return make(audit, "audit", AuditOptions.of(config), before=old, after=new)


def show(figures: dict[str, Any]) -> None:
    """The table of an audit and its verdict."""
    from llama3.evaluation.audit import TABLE_HEAD, table

    print_table(table(figures), [head.upper() for head in TABLE_HEAD])
    for fault in figures["faults"]:
        say(f"audit: {fault}")
    say(f"audit: {'passed' if figures['passed'] else 'FAILED'}")
