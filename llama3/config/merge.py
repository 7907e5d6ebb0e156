"""Lays configs over each other (defaults < preset < file < environment < --set) and remembers where values came from.

Sections merge key by key; lists and free mappings (such as `data.mix`) are replaced as a whole. When a layer names
another plugin for a slot, the options of the plugin before are dropped, with a note.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from llama3.config.schema import Config, ModelSection
from llama3.config.slot_types import Slot
from llama3.config.yaml import Path, parse_value
from llama3.errors import ConfigError, Problem
from llama3.plugins.options import dotted

NOT_AN_OVERRIDE = ConfigError.declare("L3-CFG-005", "not an override", fix="write section.key=value")
NOT_A_SECTION = ConfigError.declare("L3-CFG-006", "{key} is a value, not a section", why="it is {value!r}")
NO_ITEM = ConfigError.declare("L3-CFG-016", "{key} has no item {item}", why="it has {count} items, counted from 0")

Kind = Literal["default", "preset", "file", "python", "env", "set"]
MISSPELT = ConfigError.declare("L3-CFG-074", "not a value of the config", fix="did you mean {name}? Or unset it")
ENV_PREFIX = "LLAMA3__"
NEAR_PREFIX = "LLAMA3_"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: the kind of layer, and the place in it ("run.yaml:3:5", "--set run.seed=2")."""

    kind: Kind
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


class Layers:
    """Effective values so far, the origin of each path that a layer set, and notes for the user."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = Config().model_dump()
        self.origins: dict[Path, Origin] = {}
        self.notes: list[str] = []

    def add(self, data: Mapping[str, Any], kind: Kind, where: str, marks: Mapping[Path, str] | None = None) -> None:
        """Lay a whole mapping over the values. `marks` gives "line:col" of each path in it."""
        marks = marks or {}

        def origin(path: Path) -> Origin:
            return Origin(kind, f"{where}:{marks[path]}" if path in marks else where)

        self._merge(self.values, data, (), Config, origin)

    def set(self, keys: list[str], value: Any, origin: Origin) -> None:
        """Set the one value at `keys`; items of a list go by index. Raises ConfigError where nothing can stand."""
        here: Any = self.values
        annotation: Any = Config
        path: Path = ()
        for key in keys[:-1]:
            part = _index(here, key, path, origin)
            path, annotation = (*path, part), _annotation(annotation, part)
            child = here.get(part) if isinstance(here, dict) else here[part]
            if (section := section_of(annotation)) is not None and issubclass(section, Slot):
                child = section.written_out(child)
            if child is None:
                child = {}
                self.origins[path] = origin
            if not isinstance(child, dict | list):
                raise NOT_A_SECTION(origin, key=dotted(path), value=child)
            here[part] = child
            here = child
        last = _index(here, keys[-1], path, origin)
        if isinstance(here, list):
            self._replace(here, last, value, (*path, last), lambda _: origin)
        else:
            self._merge(here, {last: value}, path, section_of(annotation), lambda _: origin)

    def _merge(
        self,
        into: dict[Any, Any],
        over: Mapping[Any, Any],
        path: Path,
        model: type[BaseModel] | None,
        origin: Callable[[Path], Origin],
    ) -> None:
        if model is not None and issubclass(model, Slot):
            self._drop_old_options(into, over, path, model, origin)
        if model is ModelSection and "preset" in over:
            self._drop_old_shape(into, over, path, origin)
        for key, value in over.items():
            here = (*path, key)
            child = section_of(_annotation(model, key))
            if child is not None and issubclass(child, Slot):
                value = child.written_out(value)
            if child is not None and isinstance(value, Mapping):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                self.origins[here] = origin(here)
                self._merge(into[key], value, here, child, origin)
            else:
                self._replace(into, key, value, here, origin)

    def _replace(self, into: Any, key: Any, value: Any, here: Path, origin: Callable[[Path], Origin]) -> None:
        for below in [path for path in self.origins if path[: len(here)] == here]:
            del self.origins[below]
        into[key] = value
        self._mark(value, here, origin)

    def _mark(self, value: Any, path: Path, origin: Callable[[Path], Origin]) -> None:
        self.origins[path] = origin(path)
        children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, child in children:
            self._mark(child, (*path, key), origin)

    def _drop_old_shape(
        self,
        section: dict[str, Any],
        over: Mapping[str, Any],
        path: Path,
        origin: Callable[[Path], Origin],
    ) -> None:
        """Another preset is another model: what a layer below set of the shape belonged to the one before."""
        kind = origin((*path, "preset")).kind
        below = [key for key in section if key not in ("path", "preset") and (*path, key) in self.origins]
        old = [key for key in below if self.origins[(*path, key)].kind != kind]
        if section.get("preset") == over["preset"] or not old:
            return
        for key in old:
            section[key] = None
            for deeper in [place for place in self.origins if place[: len(path) + 1] == (*path, key)]:
                del self.origins[deeper]
        dropped = f"dropped {', '.join(old)}, which belonged to {section.get('preset')!r}"
        self.notes.append(f"{origin((*path, 'preset'))}: {dotted(path)} is now {over['preset']!r}; {dropped}")

    def _drop_old_options(
        self,
        slot: dict[str, Any],
        over: Mapping[str, Any],
        path: Path,
        model: type[Slot],
        origin: Callable[[Path], Origin],
    ) -> None:
        old, new = slot.get("name"), over.get("name", slot.get("name"))
        options = sorted(slot.keys() - model.model_fields.keys())
        if old == new or not options:
            return
        for option in options:
            del slot[option]
            self.origins.pop((*path, option), None)
        dropped = f"dropped {', '.join(options)}, which belonged to {old!r}"
        self.notes.append(f"{origin((*path, 'name'))}: {dotted(path)} is now {new!r}; {dropped}")


def nearest(origins: Mapping[Path, Origin], path: Path) -> Origin:
    """The origin of a path, or of the nearest thing above it that a layer set: where a user should look."""
    lengths = range(len(path), 0, -1)
    return next((origins[path[:length]] for length in lengths if path[:length] in origins), Origin("default"))


Override = tuple[list[str], str, Origin]
"""Keys, the value as text, and where it was given."""


def environment_overrides(environ: Mapping[str, str]) -> list[Override]:
    """`LLAMA3__PRETRAIN__STEPS=10`, sorted by name. What is written in capitals alone stands for small letters: a
    source or a suite may be called `Wiki`."""
    names = sorted(name for name in environ if name.startswith(ENV_PREFIX))
    return [(_small(name[len(ENV_PREFIX) :].split("__")), environ[name], Origin("env", name)) for name in names]


def _small(parts: list[str]) -> list[str]:
    return [part.lower() if part.isupper() else part for part in parts]


Wrong = tuple[Path, Problem]
"""What is wrong with a value, after the path that it was meant for; () where that is unknown."""


def misspelt(environ: Mapping[str, str]) -> list[Wrong]:
    """`LLAMA3_PRETRAIN__STEPS`, which would change nothing and means something."""
    found: list[Wrong] = []
    for name in sorted(environ):
        section, _, rest = name.removeprefix(NEAR_PREFIX).partition("_")
        meant = name.startswith(NEAR_PREFIX) and not name.startswith(ENV_PREFIX) and section.lower()
        if meant in Config.model_fields and rest.startswith("_"):
            found.append(((meant,), MISSPELT.problem(name, name=name.replace(NEAR_PREFIX, ENV_PREFIX, 1))))
    return found


def set_overrides(overrides: Iterable[str | Override]) -> list[Override]:
    """`pretrain.steps=10`, in the order given; an override without `=` has no keys. An item of a list may be written
    `[0]` too. What another option than --set stands for comes as an `Override`."""
    return [_set_override(override) if isinstance(override, str) else override for override in overrides]


def _set_override(override: str) -> Override:
    key, equals, text = override.partition("=")
    keys = re.sub(r"\[(\d+)\]", r".\1", key.strip()).removeprefix(".").split(".")
    return keys if equals else [], text, Origin("set", f"--set {_short(override)}")


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def apply_overrides(layers: Layers, rows: list[Override]) -> list[Wrong]:
    """Set every override; the problems of those that cannot be."""
    wrong: list[Wrong] = []
    for keys, text, origin in rows:
        if not keys or not all(keys):
            wrong.append(((), NOT_AN_OVERRIDE.problem(origin)))
            continue
        try:
            layers.set(keys, parse_value(text, str(origin)), origin)
        except ConfigError as error:
            wrong.extend((tuple(keys), problem) for problem in error.problems)
    return wrong


def _index(container: Any, key: str, path: Path, origin: Origin) -> str | int:
    """`key` itself, or for a list the number of an item that exists."""
    if not isinstance(container, list):
        return key
    if key.isdecimal() and int(key) < len(container):
        return int(key)
    raise NO_ITEM(origin, key=dotted(path), item=key, count=len(container))


def _annotation(annotation: Any, key: str | int) -> Any:
    """The annotation of a field of a model, or of the items of a list; None where the schema says nothing."""
    if isinstance(key, int):
        return next((get_args(part)[0] for part in _parts(annotation) if get_origin(part) is list), None)
    model = section_of(annotation)
    return model.model_fields[key].annotation if model is not None and key in model.model_fields else None


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model behind `Model`, `Model | None` or `Annotated[Model, ...]`; None for lists, mappings and values."""
    models = (part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel))
    return next(models, None)


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of a union, without `Annotated`."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for alternative in get_args(annotation) for part in _parts(alternative)]
    return [annotation]
