"""Limits of numbers, and judgements by them.

A document's score is how far it goes beyond the tightest limit: 1 is exactly at it, 2 twice beyond. So a stricter or
milder cut of everything at once is another threshold on the recorded score, and one of a single rule reads that
rule's recorded number. Letters: D documents of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from llama3.filters import DocumentBatch, Judgement

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


def judged_by(limits: Iterable[tuple[str, np.ndarray, Bound, np.ndarray]], documents: int) -> Judgement:
    """By rows of (reason, numbers [D], bound, which documents it is for [D])."""
    score_D = np.zeros(documents)
    reason_D = np.full(documents, "", dtype=object)
    for name, value_D, bound, judged_D in limits:
        excess_D = np.where(judged_D, excess(value_D, bound), 0.0)
        worse_D = excess_D > score_D
        score_D[worse_D] = excess_D[worse_D]
        reason_D[worse_D] = name
    keep_D = score_D <= 1
    reason_D[keep_D] = ""
    return Judgement(score_D, keep_D, reason_D.tolist())


def judge_measures(name: str, limits: Mapping[str, Bound], batch: DocumentBatch, judged_D: np.ndarray) -> Judgement:
    """By the numbers that the filter of this name has measured itself."""
    rows = ((key, batch.features[f"{name}.{key}"], bound, judged_D) for key, bound in limits.items())
    return judged_by(rows, len(batch))


def of_kind(batch: DocumentBatch, *kinds: str) -> np.ndarray:
    """Which documents are of one of these kinds, bool [D]."""
    return np.isin(np.array(batch.column("kind"), dtype=object), kinds)


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
