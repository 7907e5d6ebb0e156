"""Reads YAML as people mean it, and remembers where each value stands.

PyYAML follows YAML 1.1: `5e-7` is text there, `no` is False, `12:30` is 750, and the second of two equal keys wins.
This reader resolves plain scalars as YAML 1.2 does, and refuses duplicate keys, empty values, anchors and tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from llama3.errors import ConfigError, Problem

NOT_YAML = ConfigError.declare("L3-CFG-001", "not valid YAML", why="{error}")
EMPTY = ConfigError.declare("L3-CFG-002", "nothing in it", fix="llama3 config init > my.yaml")
ALIAS = ConfigError.declare("L3-CFG-003", "anchors and aliases are not supported", fix="write the value again")
TAG = ConfigError.declare("L3-CFG-012", "tag {tag!r} is not supported", fix="write plain YAML")
KEY_IS_NO_TEXT = ConfigError.declare("L3-CFG-013", "a key must be text")
TWICE = ConfigError.declare("L3-CFG-014", "duplicate key; first at line {line}", fix="remove one of the two")
NO_VALUE = ConfigError.declare(
    "L3-CFG-015", "nothing after the colon", fix="write a value, {{}} or null, or delete the key"
)

TOO_DEEP = ConfigError.declare("L3-CFG-017", "values stand in each other more than {most} deep", fix="write it flatter")
LONG_NUMBER = ConfigError.declare(
    "L3-CFG-018", "a number of {digits} digits", fix="numbers have at most 300 digits; put a text in quotes"
)

DEEPEST = 64
"""Values that may stand in each other."""
MOST_DIGITS = 300
Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + text: float(sign + "inf") for sign in ("", "+", "-") for text in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass
class Parsed:
    """Plain data and, for each path in it, "line:col" (1-based) of its key or list item."""

    data: Any
    marks: dict[Path, str] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Every plain scalar stays text here; `_scalar` gives it its type."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name and type are PyYAML's


def parse(text: str, source: str = "<text>") -> Parsed:
    """Parse one YAML document. Raises ConfigError with all problems, each at `source:line:col`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{_position(mark)}" if mark else source
        raise NOT_YAML(where, error=error.problem or error) from error
    except yaml.YAMLError as error:
        raise NOT_YAML(source, error=error) from error
    except RecursionError:
        raise TOO_DEEP(source, most=DEEPEST) from None
    if node is None:
        raise EMPTY(source)
    reader = _Reader(source)
    parsed = Parsed(reader.value(node, ()), reader.marks)
    if reader.problems:
        raise ConfigError.of(reader.problems)
    return parsed


def parse_value(text: str, source: str) -> Any:
    """The value of an override: YAML in one line; nothing at all is the empty string."""
    return parse(text, source).data if text.strip() else ""


class _Reader:
    """Turns nodes into plain data and collects marks and problems on the way."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.marks: dict[Path, str] = {}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: Path) -> Any:
        if id(node) in self._seen:
            return self._refuse(ALIAS.problem(self._place(node, path)))
        self._seen.add(id(node))
        if len(path) > DEEPEST:
            return self._refuse(TOO_DEEP.problem(f"{self.source}:{_position(node.start_mark)}", most=DEEPEST))
        self.marks.setdefault(path, _position(node.start_mark))
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
            return self._scalar(node, path)
        return self._refuse(TAG.problem(self._place(node, path), tag=node.tag))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(KEY_IS_NO_TEXT.problem(self._place(key_node, path)))
                continue
            key = str(key_node.value)
            if key in result:
                line = self.marks[(*path, key)].split(":")[0]
                where = f"{self.source}:{_position(key_node.start_mark)}: {'.'.join(map(str, (*path, key)))}"
                self._refuse(TWICE.problem(where, line=line))
                continue
            self.marks[(*path, key)] = _position(key_node.start_mark)
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = node.value
        if node.style is not None:
            return text
        if text == "":
            return self._refuse(NO_VALUE.problem(self._place(node, path)))
        if text in _SPECIAL:
            return _SPECIAL[text]
        if len(text) > MOST_DIGITS and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
            return self._refuse(LONG_NUMBER.problem(self._place(node, path), digits=len(text)))
        if _INT.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(text) if _FLOAT.fullmatch(text) else text

    def _refuse(self, problem: Problem) -> None:
        self.problems.append(problem)

    def _place(self, node: yaml.Node, path: Path) -> str:
        where = f"{self.source}:{self.marks.get(path) or _position(node.start_mark)}"
        return f"{where}: {'.'.join(map(str, path))}" if path else where


def _position(mark: Any) -> str:
    return f"{mark.line + 1}:{mark.column + 1}"


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `parse` would take for another type."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    other_type = text in _SPECIAL or text == "" or _INT.fullmatch(text) or _FLOAT.fullmatch(text)
    # PyYAML writes these line ends as they are, and reads them back as spaces; only this style escapes them.
    style = '"' if other_type or any(end in text for end in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def dump(data: Any) -> str:
    """YAML that `parse` reads back to equal data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
