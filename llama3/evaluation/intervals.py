"""Confidence intervals of measured rates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` trials with its 95 % Wilson score interval (Wilson 1927)."""

    rate: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float]:
        """The fields as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] (n = {self.n})"


def wilson(successes: int, n: int) -> Rate:
    """The rate of `successes` in `n` trials. With no trials the interval is all of [0, 1]."""
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0)
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Rate(p, max(0.0, centre - half), min(1.0, centre + half), n)
