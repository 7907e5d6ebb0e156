"""`llama3 convert`: a model from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama3.cli.output import JsonOption, note, print_json, say
from llama3.config.schema import Precision
from llama3.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from llama3.checkpoints.convert import WrittenLayout

NO_LAYOUT = ConfigError.declare(
    "L3-CLI-040",
    "no layout {given!r} is converted to",
    why="{near}",
    fix="give one of {layouts}; others are written by: llama3 export",
)
LAYOUTS: tuple[WrittenLayout, ...] = ("hf", "meta", "compressed-tensors", "fbgemm_fp8")


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A model of any layout, a release, or a run.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must be empty or not there.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="|".join(LAYOUTS),
            help="Layout of the result. The last two are for what `llama3 quantize` wrote.",
            autocompletion=lambda: list(LAYOUTS),
        ),
    ],
    dtype: Annotated[
        Precision | None,
        typer.Option(help="Precision of the result. Default: the source's own; fp32 where codes become numbers."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a model in another layout, with its tokenizer, template and terms."""
    from llama3.checkpoints.convert import DTYPES
    from llama3.checkpoints.convert import convert as write
    from llama3.inference.llama import find_model

    layout = _layout(to)
    made = write(find_model(source), out, layout, DTYPES[dtype] if dtype else None)
    if json:
        print_json({"path": made.folder, "layout": layout, "dtype": made.dtype, "parameters": made.parameters,
                    "notes": made.notes})  # fmt: skip
        return
    for text in made.notes:
        note(f"note: {text}")
    say(f"{made.folder}: {made.parameters:,} parameters in {made.dtype}, layout {layout}")


def _layout(given: str) -> WrittenLayout:
    """The layout of that name, in which - and _ are the same. Raises ConfigError."""
    from llama3.plugins.registry import same_name

    for layout in LAYOUTS:
        if same_name(layout, given):
            return layout
    raise NO_LAYOUT("--to", given=given, near=did_you_mean(given, LAYOUTS), layouts=", ".join(LAYOUTS))
