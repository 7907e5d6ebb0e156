"""What a notebook's Python hands to a shell: lines after `!`, `!!`, `%sx` and `%system`, and cells of `%%bash`.

Both texts have the places of the code, with blanks for what is not theirs. Lines are taken as they stand, in strings
too: whether one is in a string is not known before the string ends.
"""

from __future__ import annotations

import re

# Every line is held against it: what repeats gives nothing back, so that time stays linear.
_ESCAPE = re.compile(r"[ \t]*+(?:[\w.,\[\]\"' \t]*+=[ \t]*+)?+(?:!!?|%(?:sx|system)\b)")
_CELL = re.compile(r"[ \t]*+%%(!|\w+)")
_SHELLS = frozenset(("!", "bash", "sh", "script", "sx", "system", "zsh", "ksh", "cmd"))
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_ANY = re.compile(r"[^\n]")


def shell_and_rest(code: str) -> tuple[str, str]:
    """The commands that IPython would run, and the code without the lines in which they stand."""
    commands, rest, is_cell, goes_on = [], [], False, False
    for line in _LINE.findall(code):
        cell, escape = _CELL.match(line), None if goes_on else _ESCAPE.match(line)
        begin = len(line)
        if cell is not None:
            is_cell = cell[1] in _SHELLS
            begin = cell.end() if is_cell else begin
        elif is_cell or goes_on:
            begin = 0
        elif escape is not None:
            begin = escape.end()
        goes_on = begin < len(line) and line.endswith("\\\n")
        command = _blank(line[:begin]) + line[begin:]
        commands.append(command[:-2] + "  " if goes_on else command)
        rest.append(_blank(line) if begin < len(line) else line)
    return "".join(commands), "".join(rest)


def _blank(text: str) -> str:
    return _ANY.sub(" ", text)
