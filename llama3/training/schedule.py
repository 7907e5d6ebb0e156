"""The learning rate of every step: curves one after the other, each a warm-up and a way down (paper 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama3.config.phases import curve_of, phases_of
from llama3.config.schema import Curve, PretrainSection


@dataclass(frozen=True, slots=True)
class Segment:
    """`warmup` steps of a line from `start` to `peak`, then a curve to `peak * final` on the last of `steps`."""

    steps: int
    peak: float
    final: float = 1.0
    warmup: int = 0
    curve: Curve = "cosine"
    start: float = 0.0

    @property
    def end(self) -> float:
        """The rate of the last step."""
        return self.peak * self.final

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based `step` of this segment; reaches the peak on the last warm-up step."""
        warmup = min(self.warmup, self.steps)
        if step < warmup:
            return self.start + (self.peak - self.start) * (step + 1) / warmup
        if self.curve == "constant":
            return self.peak
        if self.curve == "linear":
            return self.end + (self.peak - self.end) * (self.steps - 1 - step) / (self.steps - warmup)
        progress = (step + 1 - warmup) / (self.steps - warmup)
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """A pure function of the step."""

    segments: Sequence[Segment]

    @classmethod
    def cosine(cls, peak: float, final: float, warmup: int, steps: int) -> Schedule:
        """Linear warm-up to `peak`, then a cosine to `peak * final`."""
        return cls([Segment(steps, peak, final, warmup)])

    @classmethod
    def of(cls, section: PretrainSection) -> Schedule:
        """The curves of the phases. A phase that starts none lengthens the one before it."""
        segments: list[Segment] = []
        for phase in phases_of(section):
            if not phase.starts_curve:
                segments[-1] = replace(segments[-1], steps=segments[-1].steps + phase.steps)
                continue
            reached, lr, warmup = (
                (segments[-1].end, segments[-1].end, 0) if segments else (0.0, section.lr, section.warmup)
            )
            given, (curve, final) = phase.given, curve_of(section, phase)
            peak = lr if given.lr is None else given.lr
            warmup = warmup if given.warmup is None else given.warmup
            segments.append(Segment(phase.steps, peak, final, warmup, curve, reached))
        return cls(segments)

    @property
    def total(self) -> int:
        """Steps in all."""
        return sum(segment.steps for segment in self.segments)

    def lr(self, step: int) -> float:
        """Learning rate of the 0-based `step`."""
        for segment in self.segments:
            if step < segment.steps:
                return segment.lr(step)
            step -= segment.steps
        raise IndexError(f"the schedule ends {step + 1} steps earlier")
