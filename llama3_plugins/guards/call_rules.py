"""Rules for arguments of tool calls: what a value may be, checked without opening or resolving anything."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator, model_validator

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_HOST = re.compile(r"[a-z0-9.-]+")
_DECODINGS = 5
"""How often a value may be percent-encoded."""


class ArgumentRule(BaseModel):
    """What a value of an argument may be; a list of values is held to it value by value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    argument: str = Field(min_length=1, description="its name, at any depth of the arguments")
    tool: str | None = Field(None, description="of this tool only; null: of all")
    pattern: str | None = Field(None, description="a regular expression that matches all of the text")
    longest: int | None = Field(None, ge=0, description="characters at most")
    one_of: tuple[Any, ...] | None = Field(None, description="the values that it may have")
    least: StrictInt | StrictFloat | None = Field(None, description="the smallest number")
    most: StrictInt | StrictFloat | None = Field(None, description="the largest number")
    under: str | None = Field(None, description="a folder: paths that lead out of it are refused")
    hosts: tuple[str, ...] | None = Field(
        None, description="hosts that a URL may name; *.example.org are those below example.org"
    )
    schemes: tuple[str, ...] = Field(("https",), description="of such URLs")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"the pattern cannot be compiled: {error}") from None
        return pattern

    @field_validator("under")
    @classmethod
    def _is_absolute(cls, under: str | None) -> str | None:
        if under is not None and not under.startswith("/"):
            raise ValueError("give an absolute folder")
        return under

    @model_validator(mode="after")
    def _says_something(self) -> ArgumentRule:
        told = (self.pattern, self.longest, self.one_of, self.least, self.most, self.under, self.hosts)
        if all(one is None for one in told):
            raise ValueError("the rule says nothing of the argument")
        return self

    def faults(self, value: Any) -> Iterator[str]:
        """What of the rule a value breaks, but for its pattern."""
        if self.one_of is not None and not any(type(value) is type(one) and value == one for one in self.one_of):
            yield "is none of those that it may be"
        if self.least is not None or self.most is not None:
            yield from self._faults_of_number(value)
        if any(one is not None for one in (self.pattern, self.longest, self.under, self.hosts)):
            yield from self._faults_of_text(value)

    def _faults_of_number(self, value: Any) -> Iterator[str]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield "is no number"
        elif self.least is not None and not value >= self.least:
            yield f"is below {self.least}"
        elif self.most is not None and not value <= self.most:
            yield f"is above {self.most}"

    def _faults_of_text(self, value: Any) -> Iterator[str]:
        if not isinstance(value, str):
            yield "is no text"
            return
        if self.longest is not None and len(value) > self.longest:
            yield f"has more than {self.longest} characters"
        if self.under is not None and not all(_is_under(path, self.under) for path in _decoded(value)):
            yield f"leads out of {self.under}"
        if self.hosts is not None:
            yield from self._faults_of_url(value, self.hosts)

    def _faults_of_url(self, value: str, hosts: tuple[str, ...]) -> Iterator[str]:
        schemes = [_scheme_of(url, hosts) for url in _decoded(value)]
        if None in schemes:
            yield "names none of the hosts"
        elif not set(schemes) <= set(self.schemes):
            yield f"names a host by another scheme than {' or '.join(self.schemes)}"


def _decoded(value: str) -> Iterator[str]:
    """A value as it may be read by who decodes it, once or several times; "\\0", which is nothing, where that has no
    end."""
    for _ in range(_DECODINGS):
        yield value
        if (plain := unquote(value)) == value:
            return
        value = plain
    yield "\0"


def _is_under(path: str, root: str) -> bool:
    """Whether a path, from `root` where it is not absolute, stays in it. Links are not followed: nothing is opened."""
    if not path or _CONTROL.search(path) or path.startswith("~") or "$" in path:
        return False
    root, found = posixpath.normpath(root), posixpath.normpath(posixpath.join(root, path))
    return found == root or found.startswith(root.rstrip("/") + "/")


def _scheme_of(url: str, hosts: tuple[str, ...]) -> str | None:
    """The scheme of a URL that names one of the hosts; None where it names none."""
    if _CONTROL.search(url) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if "@" in parts.netloc or not _HOST.fullmatch(host):
        return None
    is_named = any(host.endswith(h[1:].lower()) if h.startswith("*.") else host == h.lower() for h in hosts)
    return parts.scheme if is_named else None


def values_of(arguments: Any, name: str) -> Iterator[Any]:
    """The values of an argument, at any depth; of a list each."""
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            if key == name:
                yield from _each(value)
            yield from values_of(value, name)
    elif isinstance(arguments, list):
        for value in arguments:
            yield from values_of(value, name)


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _each(one)
    else:
        yield value
