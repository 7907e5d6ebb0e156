"""Tools: how a model is told of them, and how its calls are read.

Llama 3 calls a function by an answer that is JSON, {"name": ..., "parameters": {...}}, several calls with ; between
them. One state machine reads streams and whole answers; a call is told when it is whole, because guards judge it whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from llama3.serving.chat_fields import MadeCall, NamedTool, ToolSpec
from llama3.serving.problems import BAD_FIELD
from llama3.tokenizer.messages import Message

BETWEEN = "; "
_WRITTEN = "You can call functions. To call one, answer with nothing but its name and arguments as JSON: "
_EXAMPLE = '{"name": NAME, "parameters": {ARGUMENT: VALUE}}'


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A function that the model calls; `arguments` is a JSON object."""

    name: str
    arguments: str

    def __str__(self) -> str:
        return f'{{"name": {json.dumps(self.name)}, "parameters": {self.arguments}}}'


class CallReader:
    """Reads calls of the functions `names` out of an answer, piece by piece. Only an answer that begins with a call
    has any; what is not one is text."""

    def __init__(self, names: Set[str]) -> None:
        self._names = names
        self.count = 0
        """Calls so far."""
        self._state: Literal["start", "call", "between", "text"] = "start"
        self._held = ""
        self._scan = _Object()

    def push(self, piece: str) -> tuple[str, list[FunctionCall]]:
        """The text and the calls that are certain with this piece."""
        self._held += piece
        calls: list[FunctionCall] = []
        while self._state != "text" and self._advance(calls):
            pass
        if self._state != "text":
            return "", calls
        text, self._held = self._held, ""
        return text, calls

    def flush(self) -> str:
        """The text that is left at the end: a call that broke off is text."""
        return "" if self._state == "between" else self._held

    def _advance(self, calls: list[FunctionCall]) -> bool:
        """Go on by one state; False: more has to come first."""
        if self._state == "call":
            return self._read(calls)
        rest = self._held.lstrip(" \t\r\n;" if self._state == "between" else " \t\r\n")
        if not rest:
            return False
        if rest[0] == "{":
            self._state, self._held, self._scan = "call", rest, _Object()
            return True
        self._held = self._held if self._state == "start" else rest
        self._state = "text"
        return True

    def _read(self, calls: list[FunctionCall]) -> bool:
        end = self._scan.end(self._held)
        if end is None:
            return False
        call = _call(self._held[:end], self._names)
        if call is None:
            self._state = "text"
        else:
            calls.append(call)
            self.count += 1
            self._state, self._held = "between", self._held[end:]
        return True


class _Object:
    """Finds the end of a JSON object in a text that grows; each character is looked at once."""

    def __init__(self) -> None:
        self.at = self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str) -> int | None:
        """The place behind the object; None: it is not whole yet."""
        while self.at < len(text):
            char = text[self.at]
            self.at += 1
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return self.at
        return None


def _call(text: str, names: Set[str]) -> FunctionCall | None:
    """The call that a JSON object is, if it is one."""
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.pop("type", "function") != "function":
        return None
    name, rest = data.pop("name", None), list(data.items())
    if not isinstance(name, str) or name not in names or len(rest) != 1:
        return None
    key, arguments = rest[0]
    if key not in ("parameters", "arguments") or not isinstance(arguments, dict):
        return None
    return FunctionCall(name, json.dumps(arguments, ensure_ascii=False))


def _refuse(constant: str) -> None:
    """NaN and its like are no JSON."""
    raise ValueError(constant)


def told_calls(calls: Sequence[MadeCall], where: str) -> str:
    """Earlier calls as the model wrote them. Raises ConfigError where arguments are no JSON object."""
    found = []
    for call in calls:
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise BAD_FIELD(f"{where}.tool_calls", error="the arguments of a call are a JSON object")
        found.append(FunctionCall(call.function.name, json.dumps(arguments, ensure_ascii=False)))
    return BETWEEN.join(map(str, found))


def with_tools(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """A dialog whose system message says what can be called, for templates that know nothing of tools."""
    told = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = f"{_WRITTEN}{_EXAMPLE}\nThe functions:\n{told}"
    if messages and messages[0].role == "system":
        return [Message("system", f"{messages[0].text}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]


def schemas_of(tools: Sequence[ToolSpec]) -> dict[str, dict[str, Any]]:
    """The JSON schema of the arguments of each tool, by its name."""
    return {tool.function.name: tool.function.parameters or {"type": "object"} for tool in tools}


def call_schema(tools: Sequence[ToolSpec], choice: str | NamedTool | None) -> dict[str, Any]:
    """The JSON schema of a call of one of the tools, or of the one that is named."""
    named = choice.function.name if isinstance(choice, NamedTool) else None
    chosen = {name: schema for name, schema in schemas_of(tools).items() if named in (None, name)}
    schemas = [
        {
            "type": "object",
            "properties": {
                "name": {"const": name},
                "parameters": schema,
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for name, schema in chosen.items()
    ]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
