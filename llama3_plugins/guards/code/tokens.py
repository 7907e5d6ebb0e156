"""Code as tokens, by a lexer of our own that knows the comments and strings that languages have in common.

It stands in where a language has no parser here, or code does not parse. Linear in the length of the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["name", "string", "comment", "number", "sign"]


@dataclass(slots=True)  # frozen ones take twice the time, and there are thousands
class Token:
    """Something of the code that begins at `start`. `is_line` says whether it is the first of its line; `is_joined` of
    a string, that something is put into it."""

    kind: Kind
    text: str
    start: int
    is_line: bool = False
    is_joined: bool = False

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.start + len(self.text)


_HASH = frozenset(["python", "bash", "ruby", "perl", "r", "julia", "elixir", "yaml", "powershell", "make", "nim"])
_SLASHES = frozenset(
    [
        "c",
        "cpp",
        "java",
        "javascript",
        "typescript",
        "c_sharp",
        "rust",
        "go",
        "kotlin",
        "swift",
        "scala",
        "dart",
        "objective-c",
        "groovy",
        "zig",
    ]
)
_LINE = {"hash": r"\#[^\n]*", "slashes": r"//[^\n]*", "both": r"(?://|\#(?!\[))[^\n]*"}
_UNSURE = r"^[ \t]*(?://|\#(?!include|define|if|endif|else|pragma|undef|\[))[^\n]*|(?<=[;{}),])[ \t]+(?://|\#)[^\n]*"
"""Where it is not known which sign begins a comment, it does at the beginning of a line and after the end of something:
elsewhere // may divide."""


def _pattern(comment: str, quotes: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<comment>{comment}|/\*(?:[^*]|\*(?!/))*(?:\*/)?)"
        rf"|(?P<string>(?:[fFrRbBuU]{{1,2}}|[@$]{{1,2}}|L)?(?:{quotes}))"
        r"|(?P<name>\$?[^\W\d]\w*)|(?P<number>\d[\w.]*)"
        r"|(?P<sign>::|->|\?\.|=>|:=|[-+*/%.!=<>]=|==|&&|\|\||[^\s])",
        re.MULTILINE,
    )


_TRIPLE = r"\"\"\"(?:[^\\]|\\[\s\S])*?(?:\"\"\"|\Z)|\'\'\'(?:[^\\]|\\[\s\S])*?(?:\'\'\'|\Z)"
_PLAIN = r"(?<!\\)(?:\"(?:[^\"\\\n]|\\[\s\S])*+\"|\'(?:[^\'\\\n]|\\[\s\S])*+\')"
"""None begins with an escaped quote: of one that never closes all are, and each would be read to the end again."""
_TICKS = r"`(?:[^`\\]|\\[\s\S])*(?:`|\Z)"
_REGEX = r"(?:(?<=[=(,:!&|?])|(?<=[=(,:!&|?] ))/(?![/*=\s])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.){0,200}\])+/[dgimsuvy]*"
_LEXERS = {
    "hash": _pattern(_LINE["hash"], rf"{_TRIPLE}|{_PLAIN}"),
    "slashes": _pattern(_LINE["slashes"], rf"{_PLAIN}|{_TICKS}|{_REGEX}"),
    "both": _pattern(_LINE["both"], rf"{_PLAIN}|{_TICKS}"),
    "unsure": _pattern(_UNSURE, rf"{_TRIPLE}|{_PLAIN}|`[^`\n]*`|{_REGEX}"),
}
_INTO = re.compile(r"\$\{|\$\w|\{\$")
_TEMPLATE_CODE = re.compile(r"\$\{([^{}`]*)\}")
_FIELD = re.compile(r"(?<!\{)\{[^{}]")


def tokens_of(code: str, language: str | None) -> Iterator[Token]:
    """Everything but white space, in order."""
    before = -1
    for match in _lexer(language).finditer(code):
        what: Kind = match.lastgroup  # type: ignore[assignment]
        text = match[0]
        yield Token(
            what,
            text,
            match.start(),
            before < 0 or "\n" in code[before : match.start()],
            what == "string" and takes(text),
        )
        before = match.end()
        if text.startswith("`"):
            yield from _put_into(text, match.start(), language)


def _put_into(template: str, start: int, language: str | None) -> Iterator[Token]:
    """The tokens of the code within a template, after its own."""
    for inner in _TEMPLATE_CODE.finditer(template):
        for token in tokens_of(inner[1], language):
            yield replace(token, start=token.start + start + inner.start(1), is_line=False)


def without_open_end(code: str, language: str | None) -> str:
    """Code that goes on, without the comment or the string of many lines that it may end in."""
    for match in _lexer(language).finditer(code):
        text = match[0]
        is_open = match.end() == len(code) and (
            (text.startswith("/*") and not (text.endswith("*/") and len(text) > 3))
            or any(
                text.startswith(ticks) and not (text.endswith(ticks) and len(text) > len(ticks))
                for ticks in _MANY_LINES
            )
        )
        if is_open:
            return code[: match.start()]
    return code


_MANY_LINES = ('"""', "'''", "`")


def _lexer(language: str | None) -> re.Pattern[str]:
    if language in _HASH:
        return _LEXERS["hash"]
    if language in _SLASHES:
        return _LEXERS["slashes"]
    return _LEXERS["both" if language == "php" else "unsure"]


def takes(string: str) -> bool:
    """Whether something is put into a string, by the way it is written."""
    opening = string[:3]
    if opening.startswith(("`", '"')) and _INTO.search(string):
        return True
    return ("$" in opening or opening[:1] in ("f", "F") or opening[1:2] in ("f", "F")) and bool(_FIELD.search(string))
