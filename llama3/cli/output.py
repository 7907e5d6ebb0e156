"""Where output goes: data on stdout, everything else on stderr. The one printer: whatever a command tells goes through
here, so that no control character of somebody's file reaches the terminal, and a reader who goes away ends no work.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Annotated, Any, Literal, TextIO

import typer

from llama3.cli import completion
from llama3.errors import LlamaError, printable

NOT_PRINTED = LlamaError.declare(
    "L3-CLI-005",
    "the output could not be written",
    why="{error}",
    fix="free some space, or send it elsewhere; what was made is kept",
)

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

Stream = Literal["stdout", "stderr"]
_OUTSIDE_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON may hold as it is and a terminal must not be told."""


def require_stdout() -> None:
    """Raises LlamaError where standard output is closed, before work whose result nobody would see."""
    if data_stream() is None:
        raise NOT_PRINTED("standard output", error="it is closed")


def say(text: str = "", *, end: str = "\n") -> None:
    """A line of data for a reader, at once."""
    _write("stdout", printable(text) + end)


def note(text: str) -> None:
    """A line for the user that is not data."""
    _write("stderr", printable(text) + "\n")


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """One JSON document with the version of its layout."""
    document = {"schema_version": 1, **data} if isinstance(data, dict) else data
    _write("stdout", json_text(document, indent=indent) + "\n")


def json_text(data: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: null for what is no finite number."""
    try:
        text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        from llama3.artifacts.files import finite

        text = json.dumps(finite(data), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return _OUTSIDE_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> None:
    """Aligned columns without borders; on a terminal the last one wraps, piped it is never cut."""
    cells = [
        [printable(" ".join(str(cell).split())) for cell in row] for row in ([columns] if columns else []) + list(rows)
    ]
    if not cells:
        return
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    stdout = data_stream()
    on_terminal = stdout is not None and stdout.isatty()
    room = shutil.get_terminal_size().columns - indent if on_terminal else 0
    for row in cells:
        start = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        lines = textwrap.wrap(row[-1], room) if room > 20 else [row[-1]]
        for number, line in enumerate(lines or [""]):
            say(f"{start if number == 0 else ' ' * indent}{line}".rstrip())


class Told:
    """What the printer knows of stdout."""

    data = False
    """Whether anything was told there since the program began: one document is printed, or none."""
    apart: TextIO | None = None
    """Where data goes within `only_data_on_stdout`."""


def data_stream() -> TextIO | None:
    """What data is written to; None where it is closed."""
    return Told.apart or sys.stdout


@contextmanager
def only_data_on_stdout() -> Iterator[None]:
    """Within, whatever else is printed on stdout goes to stderr: by plugins, by libraries in C, by processes that
    they start."""
    if Told.apart is not None or sys.stdout is None:
        yield
        return
    with ExitStack() as stack:
        aside = sys.stderr or stack.enter_context(open(os.devnull, "w"))
        stack.callback(setattr, Told, "apart", None)
        Told.apart = stack.enter_context(_moved(sys.stdout, aside))
        stack.enter_context(redirect_stdout(aside))
        yield


@contextmanager
def _moved(stdout: TextIO, aside: TextIO) -> Iterator[TextIO]:
    """A stream to where `stdout` leads, whose descriptor leads `aside` meanwhile."""
    stdout.flush()
    try:
        number, other = stdout.fileno(), aside.fileno()
    except (OSError, ValueError):  # of no descriptor, as in a notebook
        yield stdout
        return
    with open(os.dup(number), "w", encoding=stdout.encoding, errors=stdout.errors) as apart:
        os.dup2(other, number)
        try:
            yield apart
        finally:
            os.dup2(apart.fileno(), number)


def _write(name: Stream, text: str) -> None:
    if name == "stdout":
        require_stdout()
    stream = _stream(name)
    if stream is None:  # closed before the program began: nobody is there to be told
        return
    Told.data |= name == "stdout" and bool(text)
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        _give_up(name, error)


def finish() -> None:
    """Write what is still held. Raises LlamaError where that is not possible."""
    for name in ("stdout", "stderr"):
        stream = _stream(name)
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            _give_up(name, error)


def _stream(name: Stream) -> Any:
    return data_stream() if name == "stdout" else sys.stderr


def _give_up(name: Stream, error: OSError) -> None:
    """From now on what is told there goes nowhere. A reader who went away wants no more, which is no failure."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), _stream(name).fileno())
    if name == "stdout" and error.errno != errno.EPIPE:
        raise NOT_PRINTED("standard output", error=error) from error
