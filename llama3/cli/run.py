"""`llama3 run`: the whole road."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from llama3.cli import audit
from llama3.cli.output import ConfigArgument, JsonOption, SetOption, note, print_json, print_table

if TYPE_CHECKING:
    from llama3.config.schema import Config
    from llama3.recipe import Run


PATIENCE = 60
"""Seconds that a rank waits for rank 0 to end the run."""


def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; its directory is runs/NAME.")] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="Start it again by itself when it crashes, hangs or is killed, up to so often.")
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Raise a herd: from raw text to an aligned, guarded, quantized release. Resumes what was interrupted."""
    from llama3.config.merge import Origin
    from llama3.config.yaml import dump
    from llama3.errors import GateFailed, LlamaError
    from llama3.preflight import load_config, ready

    named = [] if name is None else [(["run", "name"], dump(name), Origin("set", "--name"))]
    leads = os.environ.get("RANK", "0") == "0"
    try:
        loaded = ready(load_config(config, [*(overrides or []), *named]))
    except LlamaError as error:
        if not leads and _ended_by_rank_0():
            raise typer.Exit(error.exit_code) from error
        raise
    for line in loaded.notes if leads else ():
        note(f"note: {line}")

    from llama3 import recipe  # after the checks: this imports torch

    if restarts:
        supervised(loaded.config, restarts)
    try:
        finished = recipe.run(loaded)
    except GateFailed:
        if not json:
            show_audit(Path(loaded.config.run.dir) / loaded.config.run.name)
        raise
    if json and leads:
        print_json(dict(finished.report))
    elif leads:
        show(finished)


def _ended_by_rank_0() -> bool:
    """Whether rank 0 has ended the processes of `torchrun`, as it does where it finds the same mistakes as every rank
    and says so. Where it goes on, as from a file that another machine lacks, this rank must speak for itself."""
    try:
        return Event().wait(PATIENCE)
    except KeyboardInterrupt:  # torchrun's SIGTERM
        return True


def supervised(config: Config, restarts: int) -> None:
    """Returns in processes that do the work; the one that waits for them ends with the exit code of the last."""
    from llama3.cli.restarts import UNDER_LAUNCHER, supervise

    if "WORLD_SIZE" in os.environ:
        raise UNDER_LAUNCHER("--restarts", restarts=restarts)
    run = Path(config.run.dir) / config.run.name
    if (code := supervise(run, restarts, config.reliability.hang_seconds)) is not None:
        raise typer.Exit(code)


def show(run: Run) -> None:
    """The figures that matter, and where everything is."""
    from llama3.evaluation.intervals import Rate
    from llama3.evaluation.safety_tables import NAMES, is_safety, shown
    from llama3.evaluation.step_changes import told_change

    report = run.report
    if "herd" in report:
        show_herd(run)
        return
    bits = report["bits_per_byte_by_model"] | {name: report["bits_per_byte"][name] for name in ("gzip", "order3")}
    rows = [(f"bits per byte, {name}", f"{value:.3f}") for name, value in bits.items() if value is not None]
    rows += [(f"pass rate, {name}", str(Rate(**rate))) for name, rate in report["pass_rate"].items()]
    rows += [
        (f"{row['suite']}, {row['from']} to {row['to']}", told_change(row))
        for row in ([] if report.get("audit") else report["changes"])
        if row["change"] is not None and row["to"] == "final"
    ]
    rows += [
        (f"{suite}, {model}", ", ".join(f"{NAMES[rate]} {shown(row[rate])}" for rate in ("vr", "frr")))
        for model, results in report.get("evaluations", {}).items()
        for suite, row in results.items()
        if is_safety(row)
    ]
    rows += [
        ("report", str(run.path / "report.html")),
        ("release", str(run.path / "artifacts" / "release")),
        ("chat", f"llama3 chat {shlex.quote(str(run.path))}"),
    ]
    print_table(rows)
    if report.get("audit"):
        audit.show(report["audit"])


def show_herd(run: Run) -> None:
    """What each step of each size added, and where everything is."""
    from llama3.evaluation.herd_figures import STEP_HEAD, step_table

    print_table(list(step_table(run.report["herd"])), [title.upper() for title in STEP_HEAD])
    rows = [("report", str(run.path / "report.html"))]
    rows += [(f"release, {size}", str(run.path / "artifacts" / f"{size}-release")) for size in run.report["sizes"]]
    print_table(rows)


def show_audit(run: Path) -> None:
    """The audit of a run that was stopped at a gate, where there was one, and where the report is."""
    from llama3.artifacts.run import RunDir

    if found := RunDir(run).current().get("audit"):
        audit.show(found.metrics)
        print_table([("report", str(run / "report.html"))])
