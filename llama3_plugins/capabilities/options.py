"""Options of the capability recipes. Torch-free."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RecipeOptions(BaseModel):
    """What all of them share."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MathStepsOptions(RecipeOptions):
    """Of `math_steps`."""

    samples: int = Field(4, ge=1, le=64, description="chains that are drawn for each task")
    verify: bool = Field(True, description="whether the judge must find every step right too")
