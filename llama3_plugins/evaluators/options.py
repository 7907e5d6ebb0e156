"""Options of the evaluators, apart from them so that checking a config imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llama3.evaluation.evaluator import HELD_OUT_BYTES


class BitsPerByteOptions(BaseModel):
    """Options of the evaluator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int = Field(HELD_OUT_BYTES, ge=1, description="held-out text that is scored")
