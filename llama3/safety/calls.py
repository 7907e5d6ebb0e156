"""What a tool call hands to an interpreter, for the guards of the stage `code`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from llama3.safety.fences import CodeFences

INTERPRETERS = {
    "python": ("code_interpreter", "python", "ipython", "execute_python", "run_python", "python_repl", "jupyter"),
    "bash": ("bash", "shell", "terminal", "execute_command", "run_command", "execute_shell"),
    "": ("execute_code", "run_code", "interpreter"),
}
"""Tools that run what they are given, by its language ("": any)."""
CODE_ARGUMENTS = {
    "python": ("python", "python_code"),
    "bash": ("command", "commands", "cmd", "shell", "bash", "sh"),
    "javascript": ("javascript", "js"),
    "sql": ("sql",),
    "": ("code", "script", "source_code", "source", "src", "program", "snippet", "expression"),
}
"""Arguments that are code, whatever the tool is called."""
_WORD = re.compile(r"[\w.-]*")
"""A key that is no code."""
_TOOLS = {name: language for language, names in INTERPRETERS.items() for name in names}
_ARGUMENTS = {name: language for language, names in CODE_ARGUMENTS.items() for name in names}


def code_of_call(name: str, arguments: str) -> list[tuple[str, str]]:
    """(language, code) of each text that a call of the tool `name` would run: all that an interpreter is given, what
    stands in an argument for code, and what is fenced in any. Strings of a list are lines of one text, and a key that
    is no word is code as its value is. `arguments` is a JSON object."""
    tool = _TOOLS.get(_plain(name))
    return list(_code_in(json.loads(arguments), tool, None))


def argument_language(name: str) -> str | None:
    """The language of what stands in an argument of a tool ("": any); None: the argument is not for code."""
    return _ARGUMENTS.get(_plain(name))


def code_texts(strings: Sequence[str], language: str | None) -> list[str]:
    """What the strings of a list are together: lines of one text; for a shell also the words of one command."""
    if len(strings) < 2:
        return list(strings)
    lines = "".join(line if line.endswith("\n") else f"{line}\n" for line in strings)
    return [lines, " ".join(strings)] if language == "bash" else [lines]


def _code_in(value: Any, tool: str | None, argument: str | None) -> Iterator[tuple[str, str]]:
    """The code in a value of the arguments; `tool`, `argument`: the language that one of them runs, None: neither."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not _WORD.fullmatch(key):
                yield from _code_in(key, tool, argument)
            own = argument_language(key)
            yield from _code_in(child, tool, argument if own is None else own)
    elif isinstance(value, list):
        for text in code_texts([child for child in value if isinstance(child, str)], argument or tool):
            yield from _code_in(text, tool, argument)
        for child in value:
            if not isinstance(child, str):
                yield from _code_in(child, tool, argument)
    elif isinstance(value, str) and value.strip():
        if tool is None and argument is None:
            yield from ((block.language, block.code) for block in CodeFences().flush(value))
        else:
            yield argument or tool or "", value


def _plain(name: str) -> str:
    """Of `runPython`, `run-python` and `tools.run_python` the same."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rpartition(".")[2])
    return snake.replace("-", "_").lower()
