"""The section `post_training.reject`: what is asked in a round, and what of the answers is learnt."""

from __future__ import annotations

from pydantic import Field

from llama3.config.precision import SamplingPrecision
from llama3.config.section import Section


class RejectSection(Section):
    """Rejection sampling: K answers per prompt, the best verified one becomes training data (paper 4.2.2)."""

    prompts: int = Field(512, ge=1, description="prompts asked per round, at most")
    samples: int = Field(10, ge=1, le=64, description="K")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    top_p: float = Field(1.0, gt=0, le=1, description="smallest set of tokens with this probability is sampled from")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")
    precision: SamplingPrecision = Field(
        "auto", description="of sampling; auto: what this machine multiplies few rows faster in"
    )
    demonstrations: int = Field(0, ge=0, description="worked examples of the reward's own that are mixed in, at most")
    rehearsal: int = Field(
        0, ge=0, description="general prompts mixed in with the model's own answers, and a few refusals"
    )
    rehearsal_tokens: int = Field(
        128, ge=1, description="longest answer to a general prompt; longer ones are cut after a sentence"
    )
    rising: bool = Field(
        False,
        description="ask most of the families that the round before solved now and then: prompts grow with ability",
    )
    earlier: bool = Field(False, description="learn the verified answers of earlier rounds too")
    by_capability: int = Field(
        0,
        ge=0,
        description="training prompts that choose, for each kind of task, which model of the round before is asked; "
        "0: its last one is",
    )
