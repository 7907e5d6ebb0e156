"""Quality and repetition rules after Gopher (Rae et al. 2021, appendix A.1.1), and line-shape rules for code
(Li et al. 2023, StarCoder, section 3).

A document's score is how far it goes beyond the tightest limit: 1 is exactly at it, 2 twice beyond. So a stricter or
milder cut of everything at once is another threshold on the recorded score, and one of a single rule reads that
rule's recorded statistic.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llama3.errors import did_you_mean
from llama3.filters import FEATURES, DocumentBatch, Judgement

FARTHEST = 1e6


class Bound(BaseModel):
    """Least and greatest value that is still good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _lets_something_through(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no value is at least {self.min:g} and at most {self.max:g}")
        return self


PROSE = {
    "words": Bound(min=50, max=100_000),
    "mean_word_length": Bound(min=3, max=10),
    "hashes_per_word": Bound(max=0.1),
    "ellipses_per_word": Bound(max=0.1),
    "bullet_line_fraction": Bound(max=0.9),
    "ellipsis_line_fraction": Bound(max=0.3),
    "alpha_token_fraction": Bound(min=0.8),
    "stop_words": Bound(min=2),
    "duplicate_line_fraction": Bound(max=0.3),
    "duplicate_line_char_fraction": Bound(max=0.2),
    "duplicate_paragraph_fraction": Bound(max=0.3),
    "duplicate_paragraph_char_fraction": Bound(max=0.2),
    "top_2gram_char_fraction": Bound(max=0.20),
    "top_3gram_char_fraction": Bound(max=0.18),
    "top_4gram_char_fraction": Bound(max=0.16),
    "duplicate_5gram_char_fraction": Bound(max=0.15),
    "duplicate_6gram_char_fraction": Bound(max=0.14),
    "duplicate_7gram_char_fraction": Bound(max=0.13),
    "duplicate_8gram_char_fraction": Bound(max=0.12),
    "duplicate_9gram_char_fraction": Bound(max=0.11),
    "duplicate_10gram_char_fraction": Bound(max=0.10),
}
CODE = {
    "words": Bound(min=10, max=500_000),
    "max_line_length": Bound(max=1000),
    "mean_line_length": Bound(max=100),
    "alphanumeric_fraction": Bound(min=0.25),
    "digit_fraction": Bound(max=0.3),
    "duplicate_10gram_char_fraction": Bound(max=0.6),
}
ENGLISH_ONLY = frozenset({"mean_word_length", "stop_words"})
"""Rules whose numbers come from English; they pass documents of any other known language."""


class GopherOptions(BaseModel):
    """Limits by statistic; what is written here replaces or adds to the default limit of that statistic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prose: dict[str, Bound] = Field(default_factory=dict, description="e.g. {words: {min: 20}}")
    code: dict[str, Bound] = Field(default_factory=dict, description="e.g. {max_line_length: {max: 2000}}")

    @field_validator("prose", "code")
    @classmethod
    def _known(cls, limits: dict[str, Bound]) -> dict[str, Bound]:
        for name in limits:
            if name not in FEATURES:
                raise ValueError(f"no statistic {name!r}; {did_you_mean(name, FEATURES) or ', '.join(FEATURES)}")
        return limits


class Gopher:
    """One table of limits for prose and one for code; made text passes."""

    def __init__(self, options: GopherOptions) -> None:
        self.limits = {"prose": PROSE | options.prose, "code": CODE | options.code}
        self.features = frozenset(name for limits in self.limits.values() for name in limits)

    def judge(self, batch: DocumentBatch) -> Judgement:
        kind_D = np.array(batch.column("kind"), dtype=object)
        english_D = np.isin(np.array(batch.column("language"), dtype=object), ["en", "und"])
        score_D = np.zeros(len(batch))
        reason_D = np.full(len(batch), "", dtype=object)
        for kind, limits in self.limits.items():
            for name, bound in limits.items():
                judged_D = (kind_D == kind) & (english_D | (name not in ENGLISH_ONLY))
                excess_D = np.where(judged_D, excess(batch.features[name], bound), 0.0)
                worse_D = excess_D > score_D
                score_D[worse_D] = excess_D[worse_D]
                reason_D[worse_D] = name
        keep_D = score_D <= 1
        reason_D[keep_D] = ""
        return Judgement(score_D, keep_D, reason_D.tolist())


def excess(value_D: np.ndarray, bound: Bound) -> np.ndarray:
    """How far values go beyond a bound, as a ratio: above 1 they break it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        over = np.zeros(len(value_D)) if bound.max is None else _ratio(value_D, bound.max)
        under = np.zeros(len(value_D)) if bound.min is None else _ratio(bound.min, value_D)
    return np.minimum(np.maximum(over, under), FARTHEST)


def _ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """part / whole, where 0 / 0 is at the bound and not beyond it."""
    ratio = np.divide(part, whole)
    return np.where(np.isnan(ratio), 1.0, ratio)
