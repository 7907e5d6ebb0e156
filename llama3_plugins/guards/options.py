"""Options of the guards that are models. Torch-free."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

Probability = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]
"""A number as such: `true` would be read as 1, and switch a guard off."""


class PromptGuardOptions(BaseModel):
    """Options of `prompt_guard` and `toxicity`. Thresholds that are not given are those of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder of a trained guard: RUN/artifacts/prompt_guard (or toxicity)")
    user: Probability | None = Field(None, description="probability at which a user's text, or a model's, is blocked")
    third_party: Probability | None = Field(None, description="the same of text from elsewhere: tool results")
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where the model computes")


class LlamaGuardOptions(BaseModel):
    """Options of `llama_guard`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="a model of any layout that was trained as a guard")
    threshold: Probability | None = Field(
        None, description="probability of a violation at which a text is blocked; null: as calibrated, else 0.5"
    )
    taxonomy: dict[str, str] | None = Field(
        None, description="categories by number, {S1: NAME}; null: those it was taught, else Llama Guard 3's"
    )
    categories: dict[str, StrictBool | Probability] = Field(
        default_factory=dict, description="by number: false switches one off, a number is a threshold of its own"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("cpu", description="where the model computes")

    @model_validator(mode="after")
    def _numbers(self) -> LlamaGuardOptions:
        for name in (*(self.taxonomy or ()), *self.categories):
            if not re.fullmatch(r"S[1-9]\d{0,2}", name):
                raise ValueError(f"{name!r} is no number of a category: S1, S2 ...")
        if self.taxonomy is not None and not self.taxonomy:
            raise ValueError("a taxonomy has one category at least")
        return self


class JudgeOptions(BaseModel):
    """Options of `judge`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="an OpenAI-compatible address, such as http://127.0.0.1:8000/v1")
    served: str | None = Field(None, description="the model's name there; null: the first that the server lists")
    rubric: str = Field(
        "Does the last message ask for something harmful, illegal or hateful, or say something of that kind?",
        min_length=1,
        description="what the model is asked; the first word means that the text violates",
    )
    words: tuple[str, str] = Field(("yes", "no"), description="the two words that it may answer")
    threshold: Probability = Field(0.5, description="probability of a violation at which a text is blocked")
    left_over: Probability = Field(
        0.1, description="probability that it may give to all other words; more is an error, which blocks"
    )
    seconds: float = Field(10.0, gt=0, le=600, description="how long the server may be silent")

    @model_validator(mode="after")
    def _apart(self) -> JudgeOptions:
        first, second = (word.strip().lower() for word in self.words)
        if not first or not second or first.startswith(second) or second.startswith(first):
            raise ValueError(f"of {self.words} one begins the other, or is empty")
        return self
