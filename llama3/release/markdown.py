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
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Characters that show nothing, though their categories are those of letters and marks."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "\\": "&#92;"}
"""In place of an escape: a backslash before a bracket, and what stands between dollars, are formulas to some."""
JOINER = "\u2060"
"""Is not seen; stands in what renderers make links of after they have read escapes: addresses, names, numbers."""
_MARKUP = re.compile(
    r"""[&<>]           # HTML
    | [\\$]             # escapes, formulas
    | [`*|~]            # code, emphasis, cells, strikethrough
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis, which an underscore inside a word is not
    | \](?=[(\[:])      # a link, or where one leads
    | \[(?=\^|[ xX]\])  # a footnote, a box to be ticked""",
    re.VERBOSE,
)
_LINKED = re.compile(
    r"""(?<=:)(?=//)                       # an address
    | (?<=www)(?=\.)                       # one without its beginning
    | (?<=@)(?=\S)                         # e-mail, somebody's name
    | (?<=\#)(?=\d) | (?<=gh-)(?=\d)       # the number of an issue
    | (?<=:)(?=[\w+-]+:)                   # a smiley""",
    re.VERBOSE | re.IGNORECASE,
)


def text(value: Any) -> str:
    """A value as text on one line."""
    return _MARKUP.sub(lambda found: _ENTITIES.get(found[0], "\\" + found[0]), _LINKED.sub(JOINER, _line(value)))


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
    """Whether a character shows nothing, or makes text read in another order than it is written."""
    is_selector = "\U000e0100" <= character <= "\U000e01ef"
    return is_selector or character in _BLANKS or unicodedata.category(character) in ("Cc", "Cf", "Cs")
