"""The learning rate of every step: linear warm-up, cosine to a floor, linear anneal to exactly 0 (paper 3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pure function of the step; `total = steps + anneal` steps in all."""

    peak: float
    final: float
    """Floor of the cosine, as a share of the peak."""
    warmup: int
    steps: int
    """Steps of warm-up and cosine."""
    anneal: int = 0
    """Steps of the linear anneal that follows, from the floor to 0."""

    @property
    def total(self) -> int:
        return self.steps + self.anneal

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based `step`; reaches the peak on the last warm-up step, the floor on the last
        cosine step and exactly 0 on the last anneal step."""
        if step >= self.steps:
            return self.peak * self.final * (self.total - 1 - step) / self.anneal
        warmup = min(self.warmup, self.steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        progress = (step + 1 - warmup) / (self.steps - warmup)
        share = self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak * share
