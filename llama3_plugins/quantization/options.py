"""Options of the schemes, apart from them so that checking a config does not import torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Fp8RowwiseOptions(BaseModel):
    """What keeps a few huge activations from spoiling the others (paper 6.2)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap: float | None = Field(1200.0, gt=0, description="an input's largest element counts as this at most")
    skip_ends: bool = Field(True, description="leave the first and the last layer as they are")


class Int4Options(BaseModel):
    """How finely columns are scaled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: int = Field(128, ge=2, multiple_of=2, description="columns of a row that share a scale")
