"""`llama3 merge`: an adapter into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama3.cli.output import JsonOption, print_json, print_table


def merge(
    base: Annotated[Path, typer.Argument(help="The model that the adapter was trained on.")],
    adapter: Annotated[Path, typer.Argument(help="A LoRA adapter: ours or one that peft wrote.")],
    out: Annotated[Path, typer.Argument(help="Directory to write; it must not exist.")],
    json: JsonOption = False,
) -> None:
    """Merge a LoRA adapter into its base and report what rounding the sum cost."""
    from llama3.posttraining.merging import merge_adapter

    report = merge_adapter(base, adapter, out)
    if json:
        print_json(report.to_json())
        return
    print_table(
        [
            ("matrices", str(report.matrices)),
            ("change, mean", f"{report.change:.3%} of the base's norm"),
            ("rounding error, largest", f"{report.max_abs_error:.2e}"),
            ("log-prob difference, largest", f"{report.max_logp_error:.2e}"),
            ("written", str(out)),
        ]
    )
