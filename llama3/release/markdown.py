"""Markdown from facts: what comes from outside stays text, whatever it holds.

Names, metrics and policies go onto the model card, which model hubs render: none of them may become markup, HTML or a
link, or break out of a table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

DIGITS = 4
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that make text read in another order than it is written."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(
    r"""[&<>]           # HTML
    | [\\`*|~]          # escapes, code, emphasis, cells, strikethrough
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis, which an underscore inside a word is not
    | \](?=[(\[])       # a link""",
    re.VERBOSE,
)


def text(value: Any) -> str:
    """A value as text on one line."""
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), _line(value))


def code(value: Any) -> str:
    """A value as code: between more backticks than it has in a row. Backticks cannot keep a bar from ending a cell."""
    line = _line(value)
    if "|" in line:
        return f"<code>{text(line)}</code>"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def number(value: float) -> str:
    return f"{value:.{DIGITS}g}"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A table, or nothing where there is no row. Cells are markdown already: see `text` and `code`."""
    rows = list(rows)
    if not rows:
        return
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _line(value: Any) -> str:
    written = number(value) if isinstance(value, float) else str(value)
    return "".join("\ufffd" if _unseen(c) else c for c in " ".join(written.split()))


def _unseen(character: str) -> bool:
    return character in _BIDI or unicodedata.category(character) in ("Cc", "Cs")
