"""IsoFLOP curves: at one budget the loss over training tokens is a parabola in log(tokens), and its lowest point says
how many tokens, and so how many parameters, are compute-optimal (paper 3.2.1, figure 2).

Intervals come from a parametric bootstrap over the runs: the scatter of all runs around their parabolas, pooled over
budgets, is how much a loss differs by chance; new losses are drawn around the parabolas and everything is fitted again.
How well the scatter itself is known, from the few runs that a parabola does not use up, is drawn too (its variance is
chi-squared), as in an interval of Student's t.

Legend: n runs of a budget, R draws, B budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llama3.evaluation.intervals import TAIL

Interval = tuple[float, float] | None
"""Both ends of a 95 % interval; None where the runs cannot give one."""
Status = Literal["measured", "extrapolated", "no minimum"]
PARAMETERS = 3
"""Of a parabola."""


@dataclass(frozen=True, slots=True)
class Parabola:
    """y = c0 + c1 u + c2 u^2 of u = ln(x) - centre. Coefficients are numbers, or arrays [R] of R parabolas at once."""

    centre: float
    coefficients: np.ndarray
    """[3], or [3, R]."""
    low: float
    high: float
    """Between which values of ln(x) it was fitted."""

    @classmethod
    def through(cls, x_n: np.ndarray, y_nR: np.ndarray) -> Parabola:
        """Least squares. x: [n]; y: [n], or [n, R]. Needs three distinct x."""
        logs_n = np.log(x_n)
        centre = float(logs_n.mean())
        found, *_ = np.linalg.lstsq(_design(logs_n - centre), y_nR, rcond=None)
        return cls(centre, found, float(logs_n.min()), float(logs_n.max()))

    def __call__(self, log_x: np.ndarray | float) -> np.ndarray:
        """y at ln(x)."""
        c0, c1, c2 = self.coefficients
        u = np.asarray(log_x) - self.centre
        return np.asarray(c0 + c1 * u + c2 * u * u)

    @property
    def lowest(self) -> np.ndarray:
        """ln(x) of the minimum; NaN where the parabola has none."""
        _, c1, c2 = self.coefficients
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(c2 > 0, self.centre - c1 / (2 * c2), np.nan))

    @property
    def curvature(self) -> float:
        """c2: how much dearer it is to miss the optimum. It falls with the budget in the paper's figure."""
        return float(self.coefficients[2])

    @property
    def status(self) -> Status:
        """Whether the minimum was measured: it lies between the fewest and the most tokens of the runs."""
        if math.isnan(self.lowest):
            return "no minimum"
        return "measured" if self.low <= self.lowest <= self.high else "extrapolated"

    def within(self, log_x: np.ndarray) -> np.ndarray:
        """ln(x), moved to the nearest that was measured."""
        return np.clip(log_x, self.low, self.high)


def _design(u_n: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(u_n), u_n, u_n * u_n], 1)


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much one run's figure differs by chance, and from how many free runs that is known."""

    deviation: float
    free: int

    @classmethod
    def around(cls, residuals: Sequence[np.ndarray], used: int) -> Noise | None:
        """From the residuals of several fits that used up `used` runs each; None where no run is left over."""
        free = sum(len(row) - used for row in residuals)
        if free < 1:
            return None
        return cls(math.sqrt(sum(float(row @ row) for row in residuals) / free), free)

    def draw(self, rng: np.random.Generator, runs: int, draws: int) -> np.ndarray:
        """[runs, draws]: what chance adds to the figures of so many runs, in each draw at a noise level that is as
        well known as this one."""
        level_R = self.deviation * np.sqrt(self.free / rng.chisquare(self.free, draws))
        return rng.standard_normal((runs, draws)) * level_R


def interval(values_R: np.ndarray) -> Interval:
    """The middle 95 % of draws. A draw that gave nothing (NaN) may lie anywhere: half of them count for each end, and
    where they are too many there is no interval."""
    known = np.sort(values_R[np.isfinite(values_R)])
    share = len(known) / max(1, len(values_R))
    tail = (TAIL - (1 - share) / 2) / share if share else -1.0
    if tail < 0 or len(known) == 0:
        return None
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
