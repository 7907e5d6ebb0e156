"""Confidence intervals of measured rates and of paired changes. Legend: N items, B resamples, C columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
TAIL = 0.025
"""Probability beyond each end of a two-sided 95 % interval."""
RESAMPLES = 10_000
_CELLS = 2**20
"""Drawn items held in memory at once."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `n` trials, or another ratio of `n` items, with its 95 % interval."""

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
    """The rate of `successes` in `n` trials with its Wilson score interval (Wilson 1927).

    With no trials the interval is all of [0, 1].
    """
    if n == 0:
        return Rate(math.nan, 0.0, 1.0, 0)
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Rate(p, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap(
    columns_NC: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval (Efron 1979) of a function of column sums, whole items drawn with replacement.

    An item is a row, so what belongs together (the two scores of a pair, a score and its weight) stays together.

    Args:
        statistic: from sums [B, C] to values [B].
    """
    rng = np.random.default_rng(seed)
    n = len(columns_NC)
    at_once = max(1, _CELLS // n)
    values_B = np.concatenate(
        [
            statistic(columns_NC[rng.integers(n, size=(min(at_once, resamples - done), n))].sum(1))
            for done in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(values_B, [TAIL, 1 - TAIL])
    return float(low), float(high)


def ratio(scores_N: np.ndarray, weights_N: np.ndarray, seed: int = 0) -> Rate:
    """sum(scores) / sum(weights), with Wilson's interval where all are trials (0 or 1, of weight 1), else bootstrap."""
    n = len(scores_N)
    if (weights_N == 1).all() and np.isin(scores_N, (0.0, 1.0)).all():
        return wilson(int(scores_N.sum()), n)
    low, high = bootstrap(np.stack([scores_N, weights_N], 1), lambda sums_BC: sums_BC[:, 0] / sums_BC[:, 1], seed)
    return Rate(float(scores_N.sum() / weights_N.sum()), low, high, n)


def enough_trials(margin: float) -> int:
    """The fewest trials that can exclude a loss of `margin`.

    Where none of n trials got worse, a chance of `margin` of getting worse would show that with probability
    (1 - margin)^n (Clopper & Pearson 1934); the bootstrap sees no spread there and would call any n certain.
    """
    return math.ceil(math.log(TAIL) / math.log1p(-margin))
