"""What code does, as far as rules ask: it calls something with arguments, or sets something to a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. `text` is its source, a string that is known in double quotes whatever it was written in; with
    `name=` before it where it is given by name."""

    text: str
    is_constant: bool = False
    """It is a literal, or a name that was set to one."""
    is_joined: bool = False
    """A string that something is put into: added, formatted, interpolated."""


@dataclass(frozen=True, slots=True)
class Use:
    """A call, or with `is_set` the setting of a name. `names`: what it may be, dotted, imports and aliases resolved.
    `arguments` are read when a rule asks."""

    names: frozenset[str]
    start: int
    end: int
    arguments: Callable[[], Sequence[Argument]] = field(compare=False, default=tuple)
    is_set: bool = False
