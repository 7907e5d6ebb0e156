"""What every section of a config is."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """A closed section: unknown keys are errors, numbers are finite, and true is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and not _takes(cls.model_fields[info.field_name].annotation):
            raise ValueError(f"{str(value).lower()} is neither a number nor a text")
        return value


def _takes(annotation: Any) -> bool:
    """Whether true and false are among the values of a type."""
    return annotation in (bool, Any) or any(map(_takes, get_args(annotation)))
