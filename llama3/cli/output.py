"""Where output goes: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from llama3.cli import completion

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value, such as pretrain.steps=10. Repeatable.",
        autocompletion=completion.overrides,
    ),
]
ConfigArgument = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A file, the name of a preset, or a run.", autocompletion=completion.configs),
]


def print_json(data: Any) -> None:
    """One JSON document with the version of its layout."""
    document = {"schema_version": 1, **data} if isinstance(data, dict) else data
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")


def note(text: str) -> None:
    """A line for the user that is not data."""
    print(text, file=sys.stderr)


def print_table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> None:
    """Aligned columns without borders; on a terminal the last one wraps, piped it is never cut."""
    cells = [[" ".join(str(cell).split()) for cell in row] for row in ([columns] if columns else []) + list(rows)]
    if not cells:
        return
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = shutil.get_terminal_size().columns - indent if sys.stdout.isatty() else 0
    for row in cells:
        start = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        lines = textwrap.wrap(row[-1], room) if room > 20 else [row[-1]]
        for number, line in enumerate(lines or [""]):
            sys.stdout.write(f"{start if number == 0 else ' ' * indent}{line}".rstrip() + "\n")
