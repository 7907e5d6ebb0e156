"""Where code stands in a text: between fences, in runs of lines that look like code, in the strings of a tool call.

Of a text that goes on, lines that are not complete are left out: more text would change them. A beginning of a text has
no block that the whole has not, but that blocks get longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llama3.guards import Fence, argument_language, code_texts

LANGUAGES = {
    name: language
    for language, names in {
        "python": "py python2 python3 ipython pycon py3 sage jupyter code_interpreter",
        "c": "h",
        "cpp": "c++ cc cxx hpp hxx h++ arduino cuda",
        "java": "",
        "javascript": "js jsx node nodejs mjs cjs ts tsx typescript ecmascript vue",
        "php": "php3 php5 php7 php8",
        "c_sharp": "c# cs csharp dotnet",
        "rust": "rs",
        "go": "golang",
        "bash": "sh shell zsh ksh console shell-session shellsession terminal",
    }.items()
    for name in (language, *names.split())
}
"""What fences call the languages that rules are for."""
# Every line is held against what follows: what repeats gives nothing back, so that time stays linear.
_FEWEST = 3
"""Lines of a run that is taken for code without a fence."""
_ITEM = r"[-*\u2022] |\d+[.)] "
"""Begins an item of a list."""
_CODE_LINE = re.compile(
    rf"(?!{_ITEM})\s*+(?:"
    r".*[;{}]$"
    r"|(?>.*?\w\().*\)[:,]?$|.*\w\($|[)\]}][)\]},;]*$"
    rf"|(?!{_ITEM})[\w.$\[\]\"'*]+(?: [\w.$*]+)?\s*(?::=|[-+*/|&%]?=)\s?\S.*"
    r"|(?:import [\w.]+(?: as \w+)?|from [\w.]+ import .+|(?:async )?def \w.*:|class \w.*:|@[\w.].*)$"
    r"|#\s*(?:include|define)\b.*|(?:return|raise|throw|yield)\b.*[^.!?]$|(?:try|else|finally):$|(?:pass|break|continue)$"
    r")"
)
_NEUTRAL = re.compile(r"\s*(?:$|#|//|/\*|\*)")
_JSON_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
"""One that never closes goes to the end of the text, where no other begins: its quotes are all escaped."""
_KEY = re.compile(r"\s*:")
_COMMA = re.compile(r"\s*,\s*")
_WRITTEN_KEYS = frozenset(["content", "file_text", "text"])
"""Keys of what is written to files, which may be code; those of what runs are the engine's own."""
_WORDS = re.compile(r"[\w\s.$@/:-]*")
"""What a key is that is no code."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Code that begins at `start` of a text. `language`: as the text calls it, lower case; "" where it does not.
    `is_complete`: no more of it is to come. `span`: of the text, where places of the code are none of the text's."""

    code: str
    start: int
    language: str
    is_complete: bool
    span: tuple[int, int] | None = None


def blocks_of(text: str, *, begins: bool = True, ends: bool = True) -> Iterator[CodeBlock]:
    """The code in a text that people read. `begins`, `ends`: whether the text does there."""
    lines = _lines(text, begins, ends)
    opened: tuple[Fence, int] | None = None  # and where the code begins
    loose: list[tuple[int, str]] = []
    is_inside = not begins and _begins_inside(lines)
    end = lines[-1][0] + len(lines[-1][1]) if lines else 0
    for start, line in lines:
        fence = Fence.of(line)
        if fence is None:
            if opened is None:
                loose.append((start, line))
            continue
        if is_inside and not fence.language:
            is_inside = False  # it closes what was opened before the window
            loose.append((start, "\n"))
            continue
        is_inside = False
        closes = opened is not None and fence.closes(opened[0])
        if opened is not None and (closes or fence.language):
            yield CodeBlock(text[opened[1] : start], opened[1], opened[0].language, True)
            opened = None
        elif opened is not None:
            continue  # a shorter fence, or one of the other sign, is part of the code
        if not closes:
            yield from _runs(text, loose, True)
            loose = []
            opened = fence, start + len(line)
    yield from _runs(text, loose, ends)
    if opened is not None:
        yield CodeBlock(text[opened[1] : end], opened[1], opened[0].language, ends)


def _lines(text: str, begins: bool, ends: bool) -> list[tuple[int, str]]:
    """The lines that are complete, each with where it begins."""
    found, start = [], 0
    for line in re.findall(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", text):
        found.append((start, line))
        start += len(line)
    if not ends and found and not found[-1][1].endswith("\n"):
        found.pop()
    return found if begins else found[1:]


def _begins_inside(lines: list[tuple[int, str]]) -> bool:
    """Whether a window may begin within a block: its first fence names no language."""
    first = next(filter(None, (Fence.of(line) for _, line in lines)), None)
    return first is not None and not first.language


def _runs(text: str, lines: list[tuple[int, str]], ends: bool) -> Iterator[CodeBlock]:
    """Lines without a fence that look like code, as many as it takes not to be a slip."""
    run: list[tuple[int, str]] = []
    for start, line in [*lines, (-1, "End of it.")]:
        if _CODE_LINE.match(line.rstrip()):
            run.append((start, line))
        elif run and not _NEUTRAL.match(line):
            if len(run) >= _FEWEST:
                begin, end = run[0][0], run[-1][0] + len(run[-1][1])
                yield CodeBlock(text[begin:end], begin, "", ends or start >= 0)
            run = []


def blocks_of_call(text: str) -> Iterator[CodeBlock]:
    """The code in a tool call, which is JSON: what stands under the keys that tools have for code and commands, keys
    that are code themselves, and what looks like code anywhere. Strings of a list are lines of one text. Reads broken
    JSON too."""
    for key, strings, span in _values(text):
        language = argument_language(key)
        for code in code_texts(strings, language):
            if language is not None or key.lower() in _WRITTEN_KEYS:
                yield CodeBlock(code, 0, language or "", True, span)
            else:
                for block in blocks_of(code):
                    yield CodeBlock(block.code, 0, block.language, True, span)


def _values(text: str) -> Iterator[tuple[str, list[str], tuple[int, int]]]:
    """(key, strings, place) of each string, or of those that follow one another in a list; a key that is no word is
    code."""
    key, strings, begin, end = "", list[str](), 0, 0
    for match in _JSON_STRING.finditer(text):
        if not match[1]:
            break
        try:
            value = json.loads(match[0], strict=False)
        except ValueError:
            continue
        is_key = _KEY.match(text, match.end()) is not None
        if strings and (is_key or not _COMMA.fullmatch(text, end, match.start())):
            yield key, strings, (begin, end)
            strings = []
        if is_key:
            key = value
            if not _WORDS.fullmatch(key):
                yield "code", [key], match.span()
            continue
        begin, end = begin if strings else match.start(), match.end()
        strings.append(value)
    if strings:
        yield key, strings, (begin, end)
