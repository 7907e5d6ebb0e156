"""Options of the evaluators, apart from them so that checking a config imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class BitsPerByteOptions(BaseModel):
    """Options of the evaluator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int = Field(200_000, ge=1, description="held-out text that is scored")
