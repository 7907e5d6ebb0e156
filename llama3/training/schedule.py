"""The learning rate of every step: curves one after the other, each a warm-up and a way down (paper 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama3.config.phases import curve_of, phases_of
from llama3.config.schema import Curve, PretrainSection


@dataclass(frozen=True, slots=True)
class RateCurve:
    """`warmup` steps of a line from `start` to `peak`, then a curve to `peak * final` on the last of `steps`."""

    steps: int
    peak: float
    final: float = 1.0
    warmup: int = 0
    shape: Curve = "cosine"
    start: float = 0.0

    @property
    def end(self) -> float:
        """The rate of the last step."""
        return self.peak * self.final

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based `step` of this curve; reaches the peak on the last warm-up step."""
        warmup = min(self.warmup, self.steps)
        if step < warmup:
            return self.start + (self.peak - self.start) * (step + 1) / warmup
        if self.shape == "constant":
            return self.peak
        if self.shape == "linear":
            return self.end + (self.peak - self.end) * (self.steps - 1 - step) / (self.steps - warmup)
        progress = (step + 1 - warmup) / (self.steps - warmup)
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pure function of the step."""

    curves: Sequence[RateCurve]
    before: int = 0
    """Steps that were taken before the first one of this schedule."""

    @classmethod
    def cosine(cls, peak: float, final: float, warmup: int, steps: int) -> Schedule:
        """Linear warm-up to `peak`, then a cosine to `peak * final`."""
        return cls([RateCurve(steps, peak, final, warmup)])

    @classmethod
    def of(cls, section: PretrainSection) -> Schedule:
        """The curves of the phases. A phase that starts none lengthens the one before it; a gated one, or one with
        other rotary frequencies, warms up from 0."""
        curves: list[RateCurve] = []
        for phase in phases_of(section):
            if not phase.starts_curve:
                curves[-1] = replace(curves[-1], steps=curves[-1].steps + phase.steps)
                continue
            reached, lr, warmup = (curves[-1].end, curves[-1].end, 0) if curves else (0.0, section.lr, section.warmup)
            given, (shape, final) = phase.given, curve_of(section, phase)
            if phase.given.opens_part:
                reached, warmup = 0.0, section.warmup
            peak = lr if given.lr is None else given.lr
            warmup = warmup if given.warmup is None else given.warmup
            curves.append(RateCurve(phase.steps, peak, final, warmup, shape, reached))
        return cls(curves)

    @property
    def total(self) -> int:
        """Steps in all."""
        return sum(curve.steps for curve in self.curves) - self.before

    def since(self, step: int) -> Schedule:
        """What is left of it from the 0-based `step` on."""
        return replace(self, before=self.before + step)

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based `step`."""
        step += self.before
        for curve in self.curves:
            if step < curve.steps:
                return curve.lr(step)
            step -= curve.steps
        raise IndexError(f"the schedule ends {step + 1} steps earlier")
