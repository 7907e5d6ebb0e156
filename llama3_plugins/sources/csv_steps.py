"""Whether a reader of separated values is in step with the quotes of its file.

Behind a quote that is missing or too many, a line may lie inside a quoted field though it looks like a row. So every
row that holds a quote is read a second time, as if it began inside a field. Where that cannot be, the reader is in step
and the rows before are right; where only that can be, they are parts of a field and go. Rows wait until it is known.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

MOST_HELD = 64
"""Rows that wait. As many in succession that fit and hold no quote are taken for rows and not for lines of a field."""
MOST_CHARACTERS = 64 << 20
"""Of the rows that wait."""
IN_FIELD = "may be part of a field whose quotes are broken"
MAY_BE_REST = "may be the rest of the row before it"


@dataclass(slots=True)
class Row:
    """A row as the reader takes it."""

    number: int
    """Of its first line, from 1."""
    lines: list[str]
    fields: list[str]
    broken: str = ""
    """What is wrong with it."""
    characters: int = field(init=False)

    def __post_init__(self) -> None:
        self.characters = sum(map(len, self.lines))


@dataclass(frozen=True)
class Signs:
    """What a file is separated, quoted and escaped by."""

    separator: str
    quote: str | None
    escape: str | None

    def reader(self, lines: Iterator[str]) -> Any:
        return csv.reader(
            lines,
            delimiter=self.separator,
            quotechar=self.quote,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape,
            strict=True,
        )

    def is_quoted(self, lines: list[str]) -> bool:
        quote = self.quote
        return quote is not None and (quote in lines[0] or any(quote in line for line in lines))

    def clean(self) -> re.Pattern[str]:
        """Rows in which quotes stand around whole fields and nowhere else; the last may be open."""
        sep, quote = re.escape(self.separator), re.escape(self.quote or "")
        escaped = rf"|{re.escape(self.escape)}[\s\S]" if self.escape else ""
        signs = quote + (re.escape(self.escape) if self.escape else "")
        one = rf"(?:{quote}(?:[^{signs}]|{quote}{quote}{escaped})*+(?:{quote}|\Z)|(?:[^{signs}{sep}\r\n]{escaped})*+)"
        return re.compile(rf"(?:{one}(?:{sep}{one})*+(?:\r\n|\r|\n|\Z))*+")


class InStep:
    """Rows that are sure, of those that a reader takes. `width` is the number of their fields."""

    def __init__(self, signs: Signs, width: int, again: Callable[[list[str]], None]) -> None:
        """`again` takes lines that are to be read once more, as rows of their own."""
        self._signs, self._width, self._again = signs, width, again
        self._clean = signs.clean()
        self._held: deque[Row] = deque()
        self._characters = 0
        self._holds_quotes = False
        self._is_in_doubt = False
        """Whether a row broke, and it is not known since whether rows begin where they seem to."""
        self._fitting = 0
        """Rows in succession that fit."""

    def take(self, row: Row, pass_over: Callable[[], None]) -> Iterator[Row]:
        """Gives the rows that are sure now. `pass_over` reads the rest of the lines of a row whose quotes broke."""
        if not row.broken and len(row.fields) != self._width:
            row.broken = f"{len(row.fields)} fields; the header has {self._width}"
        if not self._signs.is_quoted(row.lines):
            yield from self._hold(row)
            return
        end = self._as_rest(row.lines)
        if end is None:  # it begins where it seems to, and so the rows before it ended where they seemed to
            yield from self.rest()
            self._is_in_doubt = False
            pass_over()
        elif self._is_rest(row, end):
            yield from self._drop(row, end)
            return
        self._holds_quotes = True
        yield from self._hold(row)

    def rest(self) -> Iterator[Row]:
        """What waits, at the end of the file: a field that was open would have been closed."""
        yield from self._held
        self._held.clear()
        self._characters = 0
        self._holds_quotes = False

    def _hold(self, row: Row) -> Iterator[Row]:
        self._held.append(row)
        self._characters += row.characters
        self._fitting = 0 if row.broken else self._fitting + 1
        self._is_in_doubt = bool(row.broken) or (self._is_in_doubt and self._fitting < MOST_HELD)
        while len(self._held) > MOST_HELD or (self._characters > MOST_CHARACTERS and len(self._held) > 1):
            self._characters -= self._held[0].characters
            yield self._held.popleft()

    def _as_rest(self, lines: list[str]) -> int | None:
        """How many lines belong to a field that is open before them, and its row; 0: all do, and it stays open; None:
        they cannot begin inside a field."""
        if self._opens(lines[0]):
            return None
        given = [f"{self._signs.quote}{lines[0]}", *lines[1:]]
        reader = self._signs.reader(iter(given))
        ends: list[int] = []
        try:
            for fields in reader:
                if len(fields) > self._width or (ends and len(fields) not in (0, self._width)):
                    return None
                ends.append(reader.line_num)
        except csv.Error:
            if reader.line_num < len(lines) or not self._is_open(given[ends[-1] if ends else 0 :]):
                return None
        return (ends[0] if ends else 0) if self._clean.fullmatch("".join(given)) else None

    def _opens(self, line: str) -> bool:
        """Whether the first quote of a line closes nothing, as is seen at once in nearly all that have one."""
        quote, signs = self._signs.quote or "", self._signs
        at = line.find(quote) + 1
        after = line[at : at + 1] if at and not signs.escape else ""
        return after not in ("", quote, signs.separator, "\r", "\n")

    def _is_open(self, lines: list[str]) -> bool:
        """Whether lines break only because they end inside a field."""
        text = "".join(lines)
        escaped = re.sub(f"{re.escape(self._signs.escape)}.", "", text, flags=re.S) if self._signs.escape else text
        return escaped.count(self._signs.quote or "") % 2 == 1

    def _is_rest(self, row: Row, end: int) -> bool:
        """Whether a row that may be the rest of a field is taken for one."""
        if row.broken:
            return True
        is_clean = self._clean.fullmatch("".join(row.lines)) is not None
        if self._is_in_doubt:
            return end > 0 or not is_clean
        # Who quotes fields leaves no quote inside of one that is not quoted.
        return end > 0 and not is_clean and self._holds_quotes

    def _drop(self, row: Row, end: int) -> Iterator[Row]:
        """Rejects the rows that wait, and the lines of this one that belong to them."""
        for held in self.rest():
            held.broken = held.broken or IN_FIELD
            yield held
        # Where no row broke before, the quote that is wrong may be in this one: none of it is sure.
        own = end if end and self._is_in_doubt else len(row.lines)
        self._again(row.lines[own:])
        yield Row(row.number, row.lines[:own], [], MAY_BE_REST)
        self._is_in_doubt = not (end and self._is_in_doubt)
        self._fitting = 0
