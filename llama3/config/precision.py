"""Precisions that a config leaves to the machine ("auto"), and the config once the machine has answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel

Work = Literal["training", "sampling"]
AutoPrecision = Literal["auto", "fp32", "bf16"]
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class PrecisionOf:
    """Marks a field as the precision of this kind of work."""

    work: Work


TrainingPrecision = Annotated[AutoPrecision, PrecisionOf("training")]
SamplingPrecision = Annotated[AutoPrecision, PrecisionOf("sampling")]


def settled(section: T, choose: Callable[[Work], Literal["fp32", "bf16"]]) -> T:
    """The section with every "auto" below it replaced by what `choose` says of its kind of work."""
    changes: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        works = [mark.work for mark in field.metadata if isinstance(mark, PrecisionOf)]
        if works and value == "auto":
            changes[name] = choose(works[0])
        elif isinstance(value, BaseModel):
            changes[name] = settled(value, choose)
        elif isinstance(value, list | tuple):
            changes[name] = type(value)(settled(x, choose) if isinstance(x, BaseModel) else x for x in value)
    return section.model_copy(update=changes)
