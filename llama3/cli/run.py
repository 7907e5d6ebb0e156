"""`llama3 run`: the whole road."""

from __future__ import annotations

from typing import Annotated

import typer

from llama3.cli.output import ConfigArgument, SetOption, note


def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; its directory is runs/NAME.")] = None,
) -> None:
    """Raise a herd: from raw text to an aligned, guarded, quantized release. Resumes what was interrupted."""
    from llama3.preflight import load_config, ready

    given = [*(overrides or []), *([f"run.name='{name.replace(chr(39), chr(39) * 2)}'"] if name else [])]
    loaded = ready(load_config(config, given))
    for line in loaded.notes:
        note(f"note: {line}")

    from llama3 import recipe  # after the checks: this imports torch

    recipe.run(loaded)
