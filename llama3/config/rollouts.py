"""How a model that learns answers: its own answers beside a teacher's. Torch-free."""

from __future__ import annotations

from pydantic import Field

from llama3.config.precision import SamplingPrecision
from llama3.config.section import Section


class OwnAnswersSection(Section):
    """How the model that learns answers, where an algorithm compares its own answers with a teacher's."""

    temperature: float = Field(1.0, gt=0, description="of sampling, and of the distributions that are compared")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this probability is sampled from")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")
    sampling_precision: SamplingPrecision = Field(
        "auto", description="of sampling; auto: what this machine multiplies few rows faster in"
    )
