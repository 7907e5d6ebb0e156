"""`llama3 convert`: a model from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llama3.cli.output import JsonOption, note, print_json, say
from llama3.config.schema import Precision


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A model of any layout, a release, or a run.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must be empty or not there.")],
    to: Annotated[
        Literal["hf", "meta", "compressed-tensors", "fbgemm_fp8"],
        typer.Option(help="Layout of the result. The last two are for what `llama3 quantize` wrote."),
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

    made = write(find_model(source), out, to, DTYPES[dtype] if dtype else None)
    if json:
        print_json({"path": made.folder, "layout": to, "dtype": made.dtype, "parameters": made.parameters,
                    "notes": made.notes})  # fmt: skip
        return
    for text in made.notes:
        note(f"note: {text}")
    say(f"{made.folder}: {made.parameters:,} parameters in {made.dtype}, layout {to}")
