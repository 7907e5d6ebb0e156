"""The plugins that a config, the options of a stage or those of another plugin choose: one walk over their slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from llama3.config.slot_types import GuardSlot, GuardTrees, PluginFamily, Slot
from llama3.errors import LlamaError, Problem
from llama3.plugins.options import Loc, dotted
from llama3.plugins.registry import discover

_GUARD: TypeAdapter[Slot] = TypeAdapter(GuardSlot)


@dataclass(frozen=True)
class Choice:
    """A plugin that was chosen: where, from which family, and with which checked options."""

    path: Loc
    family: str
    slot: Slot
    options: BaseModel | None = None


def choices(model: BaseModel, origin: Callable[[Loc], object] = lambda path: "") -> tuple[list[Choice], list[Problem]]:
    """Every plugin that `model` or the options of another plugin choose, with its checked options, and what is wrong.

    origin: where the value at a path was written, such as "run.yaml:3:5"
    """
    registry = discover()
    found: list[Choice] = []
    problems: list[Problem] = []
    waiting = deque(slots_of(model))
    while waiting:
        choice = waiting.popleft()
        place = ": ".join(part for part in (str(origin(choice.path)), dotted(choice.path)) if part)
        try:
            registry.offer(choice.family, choice.slot.name, where=place)
            options = registry.options(
                choice.family,
                choice.slot.name,
                choice.slot.options,
                where=lambda path: str(origin(path)),
                prefix=choice.path,
            )
        except LlamaError as error:
            problems.extend(error.problems)
            continue
        found.append(replace(choice, options=options))
        waiting.extend(slots_of(options, choice.path) if options else ())
    return found, problems


def identities(chosen: Iterable[Choice]) -> list[dict[str, str]]:
    """Each plugin once, as manifests and `plugins.json` record it: family, name, distribution, version; sorted."""
    rows = [discover().identity(choice.family, choice.slot.name) for choice in chosen]
    return [dict(row) for row in sorted({tuple(row.items()) for row in rows})]


def slots_of(model: BaseModel, path: Loc = ()) -> Iterator[Choice]:
    """Every slot of a model with its family, in the order of the schema; not what is left out of its identity
    (`exclude=True`), nor the sections that a config in part lacks."""
    for name, info in type(model).model_fields.items():
        if info.exclude or name not in vars(model):
            continue
        value = getattr(model, name)
        if any(isinstance(mark, GuardTrees) for mark in info.metadata):
            yield from _guards(value, (*path, name))
        else:
            yield from _slots(value, family_of(info), (*path, name))


def _slots(value: Any, family: str, path: Loc) -> Iterator[Choice]:
    if isinstance(value, Slot):
        if family and value.name:
            yield Choice(path, family, value)
    elif isinstance(value, BaseModel):
        yield from slots_of(value, path)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _slots(item, family, (*path, index))


def _guards(tree: Any, path: Loc) -> Iterator[Choice]:
    """The guards of a policy; what is malformed is left to the policy's own reader (llama3.safety.policy)."""
    if isinstance(tree, str):
        yield Choice(path, "guards", Slot(name=tree))
    elif isinstance(tree, Mapping) and "guard" in tree:
        with suppress(ValidationError):
            yield Choice((*path, "guard"), "guards", _GUARD.validate_python(tree["guard"]))
    elif isinstance(tree, Mapping | list):
        for key, child in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _guards(child, (*path, key))


def family_of(info: FieldInfo) -> str:
    """Plugin family of a slot field or of a list of slots; empty for other fields."""
    marks = (*info.metadata, *_marks(info.annotation))
    return next((mark.name for mark in marks if isinstance(mark, PluginFamily)), "")


def _marks(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _marks(part)
