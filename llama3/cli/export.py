"""`llama3 export`: a model in another program's layout."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llama3.cli import completion
from llama3.cli.options import PluginOptions, given_options, plugin_name
from llama3.cli.output import JsonOption, note, print_json, say


def export(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="A model of any layout, a release, or a run.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must be empty or not there.")],
    to: Annotated[
        str,
        typer.Option(
            help="An exporter; see: llama3 plugins list --family exporters.", autocompletion=completion.exporters
        ),
    ],
    overrides: PluginOptions = None,
    json: JsonOption = False,
) -> None:
    """Write a model for another runtime, compute with what was written, and say what was verified and what was not.

    Exit code 5 when it does not compute the same; then nothing is left behind.
    """
    options, to = given_options(overrides), plugin_name("exporters", to)

    from llama3.inference.llama import find_model
    from llama3.release.export import export as write

    made, report = write(find_model(source), out, to, options)
    if json:
        print_json({"path": out, "manifest": asdict(made), "verified": asdict(report)})
        return
    for text in made.notes:
        note(f"note: {text}")
    for text in report.not_verified:
        note(f"not verified: {text}")
    say(f"{out}: {made.parameters:,} parameters in {made.dtype}, layout {made.layout}")
    if made.rounding:
        say(f"rounding: log-probabilities move by up to {made.rounding:.1e} nats")
    say(
        f"verified by {report.runtime}: {report.log_probs:,} log-probabilities within {report.difference:.0e} nats "
        f"({report.tolerance:g} allowed), {report.same_tokens} of {report.tokens} greedy tokens as the engine's"
    )
