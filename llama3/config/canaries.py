"""Which canaries are put among the training documents (llama3.data.canaries)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class CanarySection(BaseModel):
    """Secrets that are put among the training documents to measure what a model memorises: for research, and for runs
    whose model is measured and not released."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(10, ge=1, le=10_000, description="canaries of each number of copies, and of those never put in")
    copies: list[int] = Field([1, 10, 100], min_length=1, description="how often canaries are put in")

    @field_validator("copies")
    @classmethod
    def _different(cls, copies: list[int]) -> list[int]:
        if min(copies) < 1 or len(set(copies)) < len(copies):
            raise ValueError("copies are different numbers, 1 or more; those never put in are made anyway")
        return copies
