"""Options of the parallelism plugins. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PipelineOptions(BaseModel):
    """How a pipeline's ranks take turns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["1f1b", "interleaved"] = Field(
        "1f1b", description="1f1b: one stage per rank; interleaved: several, which shortens waiting"
    )
    stages: int = Field(2, ge=2, description="stages per rank of the interleaved schedule")
    consecutive: int | None = Field(
        None,
        ge=1,
        description="microbatches that an interleaved stage runs in a row (default and least: one per rank)",
    )

    @property
    def chunks(self) -> int:
        """Stages per rank."""
        return self.stages if self.schedule == "interleaved" else 1
