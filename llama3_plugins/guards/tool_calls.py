"""Tool calls by name, by the JSON schema of the tool, and by rules for arguments (llama3_plugins.guards.call_rules).
What is no call is blocked. Schemas and patterns are held against in a process of its own (call_process)."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3.guards import GuardInput, Verdict
from llama3_plugins.guards.call_rules import ArgumentRule, values_of
from llama3_plugins.guards.own_process import SECONDS, OwnProcess

KINDS = ("call", "tool", "schema", "argument")
_SCRIPT = Path(__file__).with_name("call_process.py")


class ToolCallOptions(BaseModel):
    """Options of the guard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[str, ...] | None = Field(None, description="tools that may be called; null: all that are offered")
    deny: tuple[str, ...] = Field((), description="tools that may not be called, whatever is offered")
    schemas: bool = Field(True, description="hold arguments to the tool's JSON schema, and refuse tools without one")
    arguments: tuple[ArgumentRule, ...] = Field((), description="what values of arguments may be")


class UnreadableCallError(Exception):
    """Why a text is no call."""


class ToolCallGuard:
    """Judges calls as the server reads them, {"name": ..., "parameters": {...}}; tells everything that is wrong."""

    def __init__(self, options: ToolCallOptions) -> None:
        self.options = options
        self._process = OwnProcess(_SCRIPT, sys.path, "the schema", packages=True)

    def open(self) -> None:
        """Start the process. Raises TimeoutError where it does not begin in time."""
        self._process.start(time.monotonic() + 12 * SECONDS)

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def check(self, x: GuardInput) -> Verdict:
        """Raises TimeoutError where that takes longer than to the deadline: the call is blocked then."""
        faults = list(self._faults(x))
        kinds = {kind for kind, _ in faults}
        return Verdict(
            action="block" if faults else "allow",
            p=float(bool(faults)),
            categories={kind: float(kind in kinds) for kind in KINDS},
            reason="; ".join(dict.fromkeys(fault for _, fault in faults)),
            version="1",
        )

    def _faults(self, x: GuardInput) -> Iterator[tuple[str, str]]:
        """Each fault with its kind."""
        try:
            name, arguments = read_call(x.text)
        except UnreadableCallError as error:
            yield "call", str(error)
            return
        options = self.options
        if name in options.deny or (options.allow is not None and name not in options.allow):
            yield "tool", "the tool may not be called"
        is_offered = name in x.tools
        if not is_offered and (options.schemas or options.allow is None):
            yield "tool", "the tool is not among those that are offered"
        rules = [
            (rule, value)
            for rule in options.arguments
            if rule.tool in (None, name)
            for value in values_of(arguments, rule.argument)
        ]
        for rule, value in rules:
            yield from (("argument", f"{rule.argument} {fault}") for fault in rule.faults(value))
        patterns = [(rule, value) for rule, value in rules if rule.pattern is not None and isinstance(value, str)]
        schema = dict(x.tools[name]) if options.schemas and is_offered else None
        if schema is None and not patterns:
            return
        question = [schema, arguments, [[value, rule.pattern] for rule, value in patterns]]
        broken, matches = self._process.ask(question, time.monotonic() + SECONDS if x.deadline is None else x.deadline)
        yield from (("schema", fault) for fault in broken)
        for (rule, _), is_match in zip(patterns, matches, strict=True):
            if not is_match:
                yield "argument", f"{rule.argument} does not match its pattern"


def read_call(text: str) -> tuple[str, dict[str, Any]]:
    """(tool, arguments) of a call. Raises UnreadableCallError."""
    try:
        data = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    except UnreadableCallError:
        raise
    except (ValueError, RecursionError):
        raise UnreadableCallError("it is no JSON") from None
    if not isinstance(data, dict) or data.pop("type", "function") != "function":
        raise UnreadableCallError("it is no call of a function")
    name, rest = data.pop("name", None), list(data.items())
    if not isinstance(name, str) or len(rest) != 1 or rest[0][0] not in ("parameters", "arguments"):
        raise UnreadableCallError("a call has a name and parameters, and nothing else")
    if not isinstance(rest[0][1], dict):
        raise UnreadableCallError("its parameters are no object")
    return name, rest[0][1]


def _refuse(constant: str) -> None:
    """NaN and its like are no JSON."""
    raise ValueError(constant)


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableCallError("a key is there twice: who reads it may take either")
    return found
