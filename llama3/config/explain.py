"""What a key of the config means: type, default, description, current value and where that came from."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from llama3.config.loading import Loaded
from llama3.config.merge import section_of
from llama3.config.schema import Config
from llama3.config.slot_types import Slot
from llama3.config.slots import family_of
from llama3.errors import ConfigError, LlamaError, did_you_mean
from llama3.plugins.registry import discover
from llama3.plugins.specs import ParallelSpec

NO_KEY = ConfigError.declare("L3-CFG-040", "no such key {part!r}", why="{near}")
NO_OPTIONS = ConfigError.declare("L3-CFG-041", "{above} has no options")
NO_KEYS = ConfigError.declare("L3-CFG-042", "{above} is a value and has no keys")


@dataclass(frozen=True)
class Explanation:
    """One key. `children` are the keys below it; `plugins` (name -> summary) what may be chosen there; `off` the
    section above it that is null in this config, so that the key has no value."""

    key: str
    type: str
    default: Any
    doc: str
    value: Any = None
    origin: str = "default"
    children: list[Explanation] = field(default_factory=list)
    plugins: dict[str, str] = field(default_factory=dict)
    off: str = ""


def explain(key: str, loaded: Loaded | None = None) -> Explanation:
    """Explain a dotted key, such as "post_training.algorithm" or "post_training.algorithm.beta".

    Raises ConfigError with near names where there is no such key.
    """
    model: type[BaseModel] = Config
    info: FieldInfo | None = None
    parts = [part for part in key.split(".") if part]
    named = off = ""
    for depth, part in enumerate(parts):
        if part.isdecimal() and info is not None:
            continue  # an item of a list is explained by the list's field
        if info is not None and _mapped(info.annotation) is not None and not named:
            named = part  # any name may stand in a mapping of text to section
            continue
        if info is not None:
            model = _below(info, parts[:depth], loaded, key)
            off = off or _off(info, parts[:depth], loaded, named)
        known = model.model_fields
        if part not in known:
            raise NO_KEY(
                key, part=part, near=did_you_mean(part, known) or f"known here: {', '.join(known) or 'nothing'}"
            )
        info, named = known[part], ""
    if info is None:
        children = [_explain((name,), field, loaded) for name, field in Config.model_fields.items()]
        return Explanation("", "Config", None, Config.__doc__ or "", children=children)
    if named:
        return _named(tuple(parts), info, loaded)
    return _explain(tuple(parts), info, loaded, deep=True, off=off)


def all_keys(model: type[BaseModel] = Config, prefix: tuple[str, ...] = ()) -> Iterator[Explanation]:
    """Every leaf key of the core schema, in order (the reference page)."""
    for name, info in model.model_fields.items():
        section = section_of(info.annotation)
        if section is not None and not issubclass(section, Slot) and get_origin(info.annotation) is not list:
            yield from all_keys(section, (*prefix, name))
        else:
            yield _explain((*prefix, name), info, None)


def _named(path: tuple[str, ...], info: FieldInfo, loaded: Loaded | None) -> Explanation:
    """One section of a mapping, by its name."""
    section = _section(info.annotation)
    assert section is not None
    children = [_explain((*path, name), below, loaded) for name, below in section.model_fields.items()]
    key, doc = ".".join(path), section.__doc__ or ""
    value = _value(loaded.values, path, None) if loaded is not None else None
    origin = str(loaded.origin(key)) if loaded is not None else "default"
    return Explanation(key, "section", None, doc, value, origin, children)


def _explain(
    path: tuple[str, ...], info: FieldInfo, loaded: Loaded | None, *, deep: bool = False, off: str = ""
) -> Explanation:
    section = _section(info.annotation)
    family = family_of(info)
    children: list[Explanation] = []
    plugins: dict[str, str] = {}
    if deep and family:
        plugins = {
            row.qualified if row.status == "clash" else row.name: row.summary
            for row in discover().list(family)
            if _fits(family, row.name, path[-1])
        }
        options = _options_of(family, path, loaded)
        if options is not None:
            children = [_explain((*path, name), below, loaded) for name, below in options.model_fields.items()]
    elif deep and section is not None:
        above = (*path, "NAME") if _mapped(info.annotation) is not None else path
        null = off or _off(info, list(path), loaded)
        children = [_explain((*above, name), below, loaded, off=null) for name, below in section.model_fields.items()]
    doc = info.description or (section.__doc__ if section is not None else "") or ""
    key = ".".join(path)
    default = _plain(info.get_default(call_default_factory=True))
    value, origin = default, "default"
    if loaded is not None:
        value, origin = _value(loaded.values, path, default), str(loaded.origin(key))
    if off:
        value = None
    return Explanation(key, type_name(info.annotation, family), default, doc, value, origin, children, plugins, off)


def _off(info: FieldInfo, path: list[str], loaded: Loaded | None, named: str = "") -> str:
    """The key of a section that is null in this config; empty where it is on, or no config is asked about."""
    if loaded is None or named:
        return ""
    default = _plain(info.get_default(call_default_factory=True))
    return ".".join(path) if _value(loaded.values, tuple(path), default) is None else ""


def _fits(family: str, name: str, key: str) -> bool:
    """Whether a plugin can be chosen under a key: a strategy of parallelism has its own axis."""
    with suppress(LlamaError):
        spec = discover().spec(family, name)
        return spec.axis == key if isinstance(spec, ParallelSpec) else True
    return True  # broken: it is listed nevertheless


def _below(info: FieldInfo, path: list[str], loaded: Loaded | None, key: str) -> type[BaseModel]:
    """The model whose fields are the keys below a field: a section's, or the chosen plugin's options."""
    family = family_of(info)
    if family:
        options = _options_of(family, tuple(path), loaded)
        if options is None:
            raise NO_OPTIONS(key, above=".".join(path))
        return options
    section = _section(info.annotation)
    if section is None:
        raise NO_KEYS(key, above=".".join(path))
    return section


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section of a field, or of each item of its list or mapping."""
    lists = (part for part in (annotation, *get_args(annotation)) if get_origin(part) is list)
    items = next((section_of(get_args(one)[0]) for one in lists), None)
    return section_of(annotation) or items or _mapped(annotation)


def _mapped(annotation: Any) -> type[BaseModel] | None:
    """The section under each name of a mapping of text to section."""
    mappings = (part for part in (annotation, *get_args(annotation)) if get_origin(part) is dict)
    return next((section_of(get_args(one)[1]) for one in mappings), None)


def _options_of(family: str, path: tuple[str, ...], loaded: Loaded | None) -> type[BaseModel] | None:
    """The options model of the plugin chosen at `path` (of the default one without a config); of a list its first."""
    chosen = _value(loaded.values if loaded else Config().model_dump(), path, None)
    chosen = chosen[0] if isinstance(chosen, list) and chosen else chosen
    if not isinstance(chosen, dict):
        return None
    try:
        return discover().options_model(family, chosen["name"])
    except LlamaError:
        return None


def type_name(annotation: Any, family: str = "") -> str:
    """A type as a user writes it: `int`, `text or null`, `one of a, b`, `list of sources`."""
    if family:
        lists = any(get_origin(part) is list for part in (annotation, *get_args(annotation)))
        return f"list of {family} plugins" if lists else f"a plugin of {family}"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is list:
        return f"list of {type_name(parts[0])}"
    if origin is dict:
        return f"mapping of {type_name(parts[0])} to {type_name(parts[1])}"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _plain(value: Any) -> Any:
    if value is PydanticUndefined:
        return None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump() if isinstance(value, BaseModel) else value


def _value(values: Any, path: tuple[str, ...], default: Any) -> Any:
    for part in path:
        if isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        elif isinstance(values, dict) and part in values:
            values = values[part]
        else:
            return default
    return values
