"""Confidence intervals of measured rates and of paired changes. Legend: N items, B resamples, C columns.

`python -m llama3.evaluation.audit_errors` simulates how often the audit, which rests on them, is wrong.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""
TAIL = 0.025
"""Probability beyond each end of a two-sided 95 % interval."""
BOOTSTRAP_TAIL = 0.0125
"""The same of `studentised`, which covers less than it says where few items lose much: simulated, see there."""
WHOLE_TAIL = 40
"""Items from which on `studentised` uses all of that tail. Fewer have a share of it: so few show little of the losses
that are large and rare, by how much was simulated (audit_errors)."""
ENOUGH_DOCUMENTS = 10
"""The fewest items of a cost: below, a bootstrap over them says little."""
RESAMPLES = 10_000
_CELLS = 2**20
"""Drawn items held in memory at once."""
_ROUNDING = 1e-12
"""Of a sum: what differs by less does not differ."""


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


def wilson(successes: float, n: int) -> Rate:
    """The rate of `successes` in `n` trials with its Wilson score interval (Wilson 1927).

    Some may succeed in part (a half, say). With no trials the interval is all of [0, 1].
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
    values_B = statistic(_sums_of_resamples(columns_NC, seed, resamples))
    low, high = np.quantile(values_B, [TAIL, 1 - TAIL])
    return float(low), float(high)


def _sums_of_resamples(columns_NC: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Column sums [B, C] of `resamples` samples of N rows drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(columns_NC)
    at_once = max(1, _CELLS // n)
    sums = []
    for done in range(0, resamples, at_once):
        rows = min(at_once, resamples - done)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) @ columns_NC)
    return np.concatenate(sums)


def studentised(
    change_N: np.ndarray, size_N: np.ndarray, seed: int = 0, resamples: int | None = None
) -> tuple[float, float]:
    """Interval of sum(change) / sum(size) by the studentised bootstrap (Efron & Tibshirani 1993, section 12.5).

    How far a resample lies from the sample is measured in its own standard error, so that skewed changes and small
    samples widen the interval, which percentiles do not see. Each end leaves BOOTSTRAP_TAIL beyond it, with fewer than
    WHOLE_TAIL items n / WHOLE_TAIL of that. An end is
    infinite where so few items changed that many resamples hold none of them: then the bootstrap cannot tell.
    """
    found, n = float(change_N.sum() / size_N.sum()), len(change_N)
    if not math.isfinite(found):
        return -math.inf, math.inf
    w_N = size_N / size_N.mean()
    u_N = change_N / size_N.mean() - found * w_N
    if not np.abs(u_N).max() > _ROUNDING * np.abs(change_N / size_N.mean()).max():
        return found, found
    columns_N5 = np.stack([u_N, w_N, u_N * u_N, u_N * w_N, w_N * w_N], 1)
    u_B, w_B, uu_B, uw_B, ww_B = _sums_of_resamples(columns_N5, seed, resamples or RESAMPLES).T
    moved_B = u_B / w_B
    squares_B = uu_B - 2 * moved_B * uw_B + moved_B * moved_B * ww_B
    squares_B[squares_B < _ROUNDING * uu_B.max()] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t_B = np.nan_to_num(moved_B * w_B / np.sqrt(squares_B), nan=0.0, posinf=np.inf, neginf=-np.inf)
    error = math.sqrt(float((u_N * u_N).sum())) / n
    tail = BOOTSTRAP_TAIL * min(1.0, n / WHOLE_TAIL)
    most, least = np.quantile(t_B, 1 - tail, method="higher"), np.quantile(t_B, tail, method="lower")
    return found - float(most) * error, found - float(least) * error


def paired_trials(lost: int, gained: int, n: int) -> tuple[float, float]:
    """95 % interval of (gained - lost) / n, of n tasks that were tried before and after; nothing is drawn.

    With none gained it is the interval of Clopper & Pearson (1934). With both it is its like for a mean (Gaffke 2005):
    what a Dirichlet distribution says of the sample and one item more, which was lost for the lower end and gained for
    the upper one. Each end is wrong at most one time in 40, whatever the noise (see audit_errors).
    """
    return -_largest_mean(lost, gained, n), _largest_mean(gained, lost, n)


@functools.lru_cache(maxsize=4096)
def _largest_mean(ups: int, downs: int, n: int) -> float:
    """The upper end of the mean of n values, so many of which are 1 and -1 and the rest 0."""
    low, high = -1.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if _chance_above(middle, ups + 1, downs, n - ups - downs) > TAIL:
            low = middle
        else:
            high = middle
    return high


def _chance_above(x: float, ups: int, downs: int, rest: int) -> float:
    """P(U - D >= x) for shares (U, D, R) ~ Dirichlet(ups, downs, rest).

    Shares are gamma variables over their sum, so it is P((1-x) U > (1+x) D + x R) of these. U has an integer shape: it
    exceeds v when a Poisson variable of mean v stays below that shape; of a gamma mean it is a negative binomial.
    """
    if x < 0:
        return 1.0 - _chance_above(-x, downs, ups, rest)
    if ups == 0 or x >= 1:
        return 0.0
    below = np.cumsum(_negative_binomial(rest, x, ups))
    return float(_negative_binomial(downs, (1 + x) / 2, ups) @ below[::-1])


def _negative_binomial(shape: int, p: float, count: int) -> np.ndarray:
    """The chances of 0, 1, ... count - 1 events."""
    if shape == 0 or p == 0:
        return np.eye(1, count)[0]
    k = np.arange(1, count)
    logs = np.concatenate([[0.0], np.cumsum(np.log((k + shape - 1) / k * p))])
    chances: np.ndarray = np.exp(logs + shape * math.log1p(-p))
    return chances


def ratio(scores_N: np.ndarray, weights_N: np.ndarray, seed: int = 0) -> Rate:
    """sum(scores) / sum(weights), with Wilson's interval where all are trials (0 or 1, of weight 1), else bootstrap."""
    n = len(scores_N)
    if are_trials(scores_N, weights_N):
        return wilson(int(scores_N.sum()), n)
    low, high = bootstrap(np.stack([scores_N, weights_N], 1), lambda sums_BC: sums_BC[:, 0] / sums_BC[:, 1], seed)
    return Rate(float(scores_N.sum() / weights_N.sum()), low, high, n)


def are_trials(scores_N: np.ndarray, weights_N: np.ndarray) -> bool:
    """Whether every score is a success or a failure, of weight 1."""
    return bool((weights_N == 1).all() and np.isin(scores_N, (0.0, 1.0)).all())


def way(low: float, high: float) -> str:
    """What the interval of a change lets one say, positive where it got better."""
    if low <= 0 <= high:
        return "not told apart"
    return "better" if low > 0 else "worse"


def enough_trials(margin: float) -> int:
    """The fewest trials that can exclude a loss of `margin`.

    Where none of n trials got worse, a chance of `margin` of getting worse would show that with probability
    (1 - margin)^n (Clopper & Pearson 1934); a bootstrap sees no spread there and would call any n certain.
    """
    return math.ceil(math.log(TAIL) / math.log1p(-margin))
