"""Safety in post-training: which prompts, who judges the answers, and how much of a round they are."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama3.config.section import Section
from llama3.config.slot_types import GuardSlot

LEFT_OVER = 0.5
"""Probability that a model which judges may give to anything but its two words before its answer is none; 1: any."""
MOST_SHOTS = 256
"""As many as the paper's longest attacks have (5.4.4)."""
BUILT_IN = "built_in"
"""Stands among files of prompts for those that are generated."""


class JudgeSection(BaseModel):
    """Who judges: one of a guard, a model on this machine, and a served one; none of them means the signs of a refusal
    (llama3.safety.refusal_evidence), by which an answer that neither refuses nor is noise complies, so violates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guard: GuardSlot | None = Field(None, description="a guard that stands at `output`; its p, or `category`")
    category: str | None = Field(None, description="whose score of the guard counts (default: p, else the largest)")
    path: str | None = Field(None, description="a model that is asked")
    url: str | None = Field(None, description="a server that is asked, such as http://127.0.0.1:8000/v1")
    served: str | None = Field(None, description="name of the model at `url` (default: the first that it lists)")
    question: str | None = Field(None, description="what a model is asked of the answer")
    words: tuple[str, str] = Field(("yes", "no"), description="what a model may say, the event first")
    left_over: float = Field(
        LEFT_OVER, ge=0, le=1, description="what a model may give to other words before its answer is none; 1: all"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="from which probability on an answer counts as the event")
    card: str | None = Field(None, description="the judge card by which rates are corrected (llama3 judge)")

    @model_validator(mode="after")
    def _one(self) -> JudgeSection:
        if sum(value is not None for value in (self.guard, self.path, self.url)) > 1:
            raise ValueError("a judge is a guard, a model at `path` or a server at `url`: name one")
        if self.served is not None and self.url is None:
            raise ValueError("`served` names a model of a server: give its `url`")
        if self.category is not None and self.guard is None:
            raise ValueError("`category` is one of a guard's: name the `guard`")
        if len({word.strip().casefold() for word in self.words} - {""}) < 2:
            raise ValueError("`words` are two different words")
        return self


class SafetyDataSection(Section):
    """Safety finetuning within a round (paper 5.4.3, 5.4.4): the model is asked prompts that should be refused and ones
    that only sound so; what it should have said is learnt by `sft`, and preferred to what it said by `prefer`."""

    prompts: list[str] = Field(
        [BUILT_IN],
        min_length=1,
        description=f"files of prompts, finds of a red team too; `{BUILT_IN}` are those that are generated",
    )
    limit: int = Field(400, ge=1, description="prompts of each round, at most, but those of many shots")
    in_context: int = Field(0, ge=0, description="prompts that the model is to make up by examples, at most")
    many_shot: list[Annotated[int, Field(ge=1, le=MOST_SHOTS)]] = Field(
        default_factory=list,
        description="numbers of unsafe examples that stand before a prompt of its own; a pair of prompts for each",
    )
    borderline: float = Field(1.0, ge=0, le=100, description="borderline prompts for each adversarial one")
    share: float = Field(0.3, gt=0, lt=1, description="of the dialogs and the pairs of a round that are about safety")
    samples: int = Field(4, ge=1, le=64, description="answers to each prompt")
    temperature: float = Field(1.0, gt=0, description="of sampling")
    max_tokens: int = Field(64, ge=1, le=1 << 30, description="longest answer")
    min_distance: float = Field(
        0.1, ge=0, le=2, description="of the two answers of a pair: 1 - cosine of the model's mean final states"
    )
    violates: JudgeSection = Field(JudgeSection(), description="who says whether an answer violates")
    refuses: JudgeSection = Field(JudgeSection(), description="who says whether an answer refuses")
