"""What a model may call, and how a call is run: as Python, in the sandbox and nowhere else.

A tool is the source of a Python function; its signature and its docstring are all that a model is told of it (paper
4.3.5). A call is Llama 3's JSON, {"name": ..., "parameters": {...}}; the value of a parameter may be a call itself.
"""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama3.capabilities import CallReader, FunctionCall, Script
from llama3_plugins.capabilities.python_source import lone_functions, parsed

PASSAGES = "passages.json"
"""The file in which `search` looks."""
_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "list": "array", "dict": "object"}
_SAY = "print(__import__('json').dumps({expression}, ensure_ascii=False))"


@dataclass(frozen=True)
class Tool:
    """A Python function that a model may call."""

    source: str

    @cached_property
    def _node(self) -> ast.FunctionDef:
        (node,) = ast.parse(self.source).body
        assert isinstance(node, ast.FunctionDef)
        return node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def parameters(self) -> dict[str, str]:
        """Annotations by name; "" where there is none."""
        given = [*self._node.args.posonlyargs, *self._node.args.args, *self._node.args.kwonlyargs]
        return {one.arg: ast.unparse(one.annotation) if one.annotation else "" for one in given}

    @property
    def required(self) -> list[str]:
        """The parameters without a default."""
        arguments = self._node.args
        plain, named = [*arguments.posonlyargs, *arguments.args], arguments.kwonlyargs
        without = plain[: len(plain) - len(arguments.defaults)]
        without += [one for one, default in zip(named, arguments.kw_defaults, strict=True) if default is None]
        return [one.arg for one in without]

    @property
    def is_told(self) -> bool:
        """Whether signature and docstring say all that a caller needs: there is a docstring, parameters have names, and
        the function has one of its own."""
        given, hidden = self._node.args, self.name.startswith("_") or hasattr(builtins, self.name)
        return not (hidden or given.vararg or given.kwarg or given.posonlyargs) and bool(ast.get_docstring(self._node))

    @property
    def examples(self) -> list[str]:
        """What the docstring shows at a prompt of Python."""
        lines = map(str.strip, (ast.get_docstring(self._node) or "").splitlines())
        return [line.removeprefix(">>> ") for line in lines if line.startswith(">>> ")]

    def bound(self, call: ast.Call) -> dict[str, Any] | None:
        """The arguments of a call by their names; None where one is no plain value."""
        names = list(self.parameters)
        if len(call.args) > len(names) or any(word.arg is None for word in call.keywords):
            return None
        try:
            given = {name: ast.literal_eval(value) for name, value in zip(names, call.args, strict=False)}
            given |= {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            return given if given == json.loads(json.dumps(given)) else None
        except (ValueError, TypeError, SyntaxError, RecursionError):
            return None

    @property
    def spec(self) -> dict[str, Any]:
        """As OpenAI's interface writes it."""
        schema = {
            "type": "object",
            "properties": {name: _schema(kind) for name, kind in self.parameters.items()},
            "required": self.required,
        }
        told = {"name": self.name, "description": ast.get_docstring(self._node) or "", "parameters": schema}
        return {"type": "function", "function": told}


def _schema(annotation: str) -> dict[str, Any]:
    outer, _, inner = annotation.removesuffix("]").partition("[")
    if outer not in _TYPES:
        return {}
    return {"type": _TYPES[outer], **({"items": _schema(inner)} if outer == "list" and inner else {})}


CALCULATOR = Tool('''def calculator(expression: str) -> float:
    """Computes an arithmetic expression such as (12.5 + 3) * 4 / 7. Knows +, -, *, /, //, %, ** and the functions of
    Python's math module, such as sqrt(2)."""
    import math

    return eval(expression, {"__builtins__": {}}, {**vars(math), "abs": abs, "round": round})
''')
PYTHON = Tool('''def python(code: str) -> str:
    """Runs a Python program, which may open the files that the user has uploaded, and returns what it prints."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {"__name__": "__main__"})
    return said.getvalue()
''')
SEARCH = Tool('''def search(query: str) -> list:
    """Finds the passages that fit a query best, in the texts of this site."""
    import collections
    import json
    import math
    import re

    with open("passages.json") as file:
        passages = json.load(file)
    found = [set(re.findall(r"\\w+", text.casefold())) for text in passages]
    held = collections.Counter(word for words in found for word in words)
    asked = set(re.findall(r"\\w+", query.casefold()))
    scores = [sum(math.log(1 + len(passages) / held[word]) for word in asked & words) for words in found]
    best = sorted(range(len(passages)), key=lambda place: (-scores[place], place))[:3]
    return [passages[place] for place in best if scores[place] > 0]
''')
CORE = (CALCULATOR, PYTHON, SEARCH)


@dataclass(frozen=True, slots=True)
class Written:
    """What an answer is: text, or calls, or something that wanted to be one: then `fault` says why it is none."""

    calls: tuple[FunctionCall, ...] = ()
    fault: str = ""


def read(answer: str, active: Sequence[Tool], known: Sequence[Tool]) -> Written:
    """Of the tools that are `known` those are `active` that the system prompt tells of.

    Faults: `not_active` for a call of another tool, `unknown_function` for one of no tool, `malformed_call` for what
    is no call but looks like one, or has text beside it.
    """
    reader = CallReader(frozenset(tool.name for tool in known))
    text, calls = reader.push(answer)
    text += reader.flush()
    if any(call.name not in {tool.name for tool in active} for call in calls):
        return Written(fault="not_active")
    if calls:
        return Written(tuple(calls)) if not text.strip() else Written(fault="malformed_call")
    if '"name"' in text and ('"parameters"' in text or '"arguments"' in text):
        return Written(fault="unknown_function" if _is_json(text) else "malformed_call")
    return Written()


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def is_nested(call: FunctionCall) -> bool:
    """Whether the value of a parameter is itself a call."""
    return any(_as_call(value) for value in json.loads(call.arguments).values())


def script(call: FunctionCall, active: Sequence[Tool], files: Mapping[str, str]) -> Script | None:
    """The program that runs a call and prints its value as JSON; None where the call cannot be written in Python."""
    names = {tool.name for tool in active}
    try:
        expression = _expression(call.name, json.loads(call.arguments), names)
    except (ValueError, RecursionError):
        return None
    return Script("\n".join([*(tool.source for tool in active), _SAY.format(expression=expression)]), files=files)


def _expression(name: str, arguments: Mapping[str, Any], names: set[str]) -> str:
    if name not in names or not all(map(str.isidentifier, arguments)):
        raise ValueError(name)
    return f"{name}({', '.join(f'{key}={_value(value, names)}' for key, value in arguments.items())})"


def _value(value: Any, names: set[str]) -> str:
    nested = _as_call(value)
    return _expression(*nested, names) if nested else repr(value)


def _as_call(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    if isinstance(value, dict) and value.keys() == {"name", "parameters"} and isinstance(value["parameters"], dict):
        return str(value["name"]), value["parameters"]
    return None


def shown(value: str) -> str:
    """A value in JSON as a model sees it: text is text."""
    try:
        found = json.loads(value)
    except ValueError:
        return value  # cut, because it was too long
    return found.strip() if isinstance(found, str) else value


def mined(code: str) -> Iterator[tuple[Tool, FunctionCall]]:
    """Functions with a docstring that stand alone in a Python file, each with a call of it whose arguments are plain
    values: from the examples of docstrings, or from anywhere in the file. Whether either runs is for the sandbox to
    tell."""
    tools = [tool for tool in map(Tool, lone_functions(code, shortest=2)) if tool.is_told]
    found = {tool.name: tool for tool in tools}
    places = [parsed(line) for line in (code, *(line for tool in tools for line in tool.examples))]
    for node in (node for tree in places if isinstance(tree, ast.Module) for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in found:
            tool = found[node.func.id]
            if arguments := tool.bound(node):
                del found[tool.name]
                yield tool, FunctionCall(tool.name, json.dumps(arguments, ensure_ascii=False))
