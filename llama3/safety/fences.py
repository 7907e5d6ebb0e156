"""Fenced code in texts of Markdown, as it is written: lines between ``` or ~~~, in lists and quotations, and in those
of each other. A line ends as Markdown has it: with a line feed, a carriage return or both."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Every line is held against it: what repeats gives nothing back, so that time stays linear.
_FENCE = re.compile(r"\ufeff?+(?:[ \t>]|[-*+][ \t]|\d++[.)][ \t])*+(`{3,}+|~{3,}+)[ \t]*+([^\s`{,:]*+)[^\n`]*+$")
_END = re.compile(r"\n|\r\n|\r(?=.)")
"""Of a line; a carriage return at the end of a text that grows may be the first half of one."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A line that opens or closes code: its sign, and the language that it names, in lower case; "" where it does
    not."""

    sign: str
    language: str

    @classmethod
    def of(cls, line: str) -> Fence | None:
        """The fence that a line is, with or without its end; None: it is none."""
        found = _FENCE.match(line.rstrip("\r\n"))
        return None if found is None else cls(found[1], found[2].lower())

    def closes(self, opened: Fence) -> bool:
        """Whether the line ends the code that another one opened."""
        return not self.language and self.sign.startswith(opened.sign)


@dataclass(frozen=True, slots=True)
class FencedCode:
    """Code that begins at `start` of its text."""

    code: str
    start: int
    language: str


class CodeFences:
    """Reads fenced code out of a text that grows; each line is looked at once. A fence with a language ends the code
    before it, closed or not."""

    def __init__(self) -> None:
        self.open_at: int | None = None
        """Where code begins that is not closed yet."""
        self._opened = Fence("", "")
        self._at = self._looked = 0  # the first line that was not read, and as far as it has no end

    def push(self, text: str) -> list[FencedCode]:
        """The code that is closed with this text, which begins with all that was pushed before."""
        found: list[FencedCode] = []
        while end := _END.search(text, self._looked):
            self._read(text, end.end(), found)
        self._looked = max(self._looked, len(text) - text.endswith("\r"))
        return found

    def flush(self, text: str) -> list[FencedCode]:
        """The same where the text ends here: what is open ends with it."""
        found = self.push(text)
        if self._at < len(text):
            self._read(text, len(text), found)
        if self.open_at is not None:
            self._close(text, len(text), found)
        return found

    def _read(self, text: str, end: int, found: list[FencedCode]) -> None:
        """The line that begins at the first place that was not read."""
        start, self._at, self._looked = self._at, end, end
        fence = Fence.of(text[start:end])
        if fence is None:
            return
        if self.open_at is None:
            self.open_at, self._opened = end, fence
        elif fence.closes(self._opened) or fence.language:
            self._close(text, start, found)
            if fence.language:
                self.open_at, self._opened = end, fence

    def _close(self, text: str, end: int, found: list[FencedCode]) -> None:
        start, self.open_at = self.open_at or 0, None
        if text[start:end].strip():
            found.append(FencedCode(text[start:end], start, self._opened.language))
