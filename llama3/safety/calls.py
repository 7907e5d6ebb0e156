"""What a tool call hands to an interpreter, for the guards of the stage `code`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
    "": ("code", "script", "source_code", "program", "snippet"),
}
"""Arguments that are code, whatever the tool is called."""
_TOOLS = {name: language for language, names in INTERPRETERS.items() for name in names}
_ARGUMENTS = {name: language for language, names in CODE_ARGUMENTS.items() for name in names}


def code_of_call(name: str, arguments: str) -> list[tuple[str, str]]:
    """(language, code) of each text that a call of the tool `name` would run: all that an interpreter is given, what
    stands in an argument for code, and what is fenced in any. `arguments` is a JSON object."""
    tool = _TOOLS.get(_plain(name))
    return list(_code_in(json.loads(arguments), tool, None))


def _code_in(value: Any, tool: str | None, argument: str | None) -> Iterator[tuple[str, str]]:
    """The code in a value of the arguments; `tool`, `argument`: the language that one of them runs, None: neither."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _code_in(child, tool, _ARGUMENTS.get(_plain(key), argument))
    elif isinstance(value, list):
        for child in value:
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
