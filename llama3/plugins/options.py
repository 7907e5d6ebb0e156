"""Options of a plugin: checked by the plugin's own pydantic model, with mistakes turned into `Problem`s."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from llama3.errors import ConfigError, Problem, did_you_mean

UNKNOWN_KEY = ConfigError.declare("L3-CFG-010", "unknown key", why="{near}")
BAD_VALUE = ConfigError.declare("L3-CFG-011", "{message}", why="{got}")

Loc = tuple[str | int, ...]
_TYPE = re.compile(r"literal\[.*\]|constrained-\w+|bool|int|float|str")


def dotted(loc: Sequence[str | int]) -> str:
    """("data", "filters", 0, "name") -> "data.filters.0.name"."""
    return ".".join(map(str, loc))


def problems_of(
    error: ValidationError, model: type[BaseModel], where: Callable[[Loc], str], prefix: Loc = ()
) -> list[Problem]:
    """One `Problem` per mistake that pydantic found, unknown keys with the near names.

    `where` gives the place (such as "run.yaml:5:3") of a path; `prefix` is the path of `model` itself.
    """
    problems = []
    alternatives: dict[Loc, list[str]] = {}
    for item in error.errors(include_url=False, include_context=False):
        at, is_alternative = _without_type(item["loc"])
        loc: Loc = (*prefix, *at)
        place = ": ".join(part for part in (where(loc), dotted(loc)) if part)
        if item["type"] == "extra_forbidden":
            known = keys_at(model, item["loc"][:-1])
            near = did_you_mean(str(item["loc"][-1]), known) or f"known here: {', '.join(sorted(known))}"
            problems.append(UNKNOWN_KEY.problem(place, near=near))
            continue
        got = "" if isinstance(item["input"], dict | list) else f"got {_brief(item['input'])}"
        message = _sentence(item["msg"])
        if item["input"] is None and (keys := keys_at(model, item["loc"])):
            message = f"this section cannot be null: leave it out, or give it of {', '.join(sorted(keys))}"
        if is_alternative:  # one mistake, told by pydantic once for each type that the value might have been of
            told = alternatives.setdefault(loc, [])
            told.append(message)
            message = ", or ".join(told)
            problems = problems if len(told) == 1 else problems[:-1]
        problems.append(BAD_VALUE.problem(place, message=message, got=got))
    return problems


def _without_type(loc: Loc) -> tuple[Loc, bool]:
    """A path without the name of a type at its end, by which pydantic tells apart the types of one field."""
    is_type = len(loc) > 1 and _TYPE.fullmatch(str(loc[-1])) is not None
    return (loc[:-1], True) if is_type else (loc, False)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def keys_at(model: type[BaseModel], loc: Sequence[str | int]) -> set[str]:
    """Names of the fields of the model that stands at `loc` inside `model`; empty where there is none."""
    here: Any = model
    for part in loc:
        if isinstance(part, int):
            continue
        if here is not None and get_origin(here) is dict:  # sections by a name of the user's own
            here = inner_model(get_args(here)[1])
            continue
        fields = getattr(here, "model_fields", {})
        if part not in fields:
            return set()
        annotation = fields[part].annotation
        here = annotation if get_origin(annotation) is dict else inner_model(annotation)
    return set(getattr(here, "model_fields", {}))


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if (found := inner_model(part)) is not None:
            return found
    return None
