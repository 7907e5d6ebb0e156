"""Options of the parallelism plugins. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FsdpOptions(BaseModel):
    """What the ranks along dp share, and when they exchange it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: int = Field(
        1, ge=1, description="copies of the weights; the neighbours in each share it (hybrid: a copy per machine, say)"
    )
    reshard: bool = Field(
        True,
        description="give a block's weights back after its forward and gather them again for its backward; false: "
        "gather them once per update (Llama 3), which needs room for a whole copy",
    )
    gather: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="precision in which weights are gathered and computed with; gradients are added up in float32",
    )


class TorchftOptions(BaseModel):
    """Where replica groups find each other, and how long they wait."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lighthouse: str = Field(
        "http://localhost:29510",
        pattern=r"^https?://",
        description="address of the `torchft_lighthouse` that all groups ask who is there",
    )
    seconds: float = Field(
        60.0, gt=0, description="of silence after which another group counts as lost in the middle of a step"
    )
    patience: float = Field(
        300.0, gt=0, description="seconds that the beginning of a step waits for the lighthouse's answer"
    )
    host: str | None = Field(
        None, description="name by which the other groups reach this machine; default: the name it has for itself"
    )


class PipelineOptions(BaseModel):
    """How a pipeline's ranks take turns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Literal["1f1b", "interleaved", "zero_bubble"] = Field(
        "1f1b",
        description="1f1b: one stage per rank; interleaved: several, which shortens waiting; zero_bubble: one, and "
        "gradients of the weights (ZB-H1) are computed while the rank would wait",
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
