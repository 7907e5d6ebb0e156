"""How often the audit is wrong: `python -m llama3.evaluation.audit_errors` prints the table of docs/post-training.md.

The question is how often a suite passes whose true loss is its margin: a nominal 2.5 %, of which the audit promises at
most 3 %. For shares of success the answer is counted over all outcomes, for costs it is simulated. Legend: N items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from llama3.evaluation.intervals import enough_trials, paired_trials, studentised

SIZES = (30, 36, 60, 100, 240, 500, 1000)
MARGINS = (0.05, 0.1, 0.2)
NOISES = (0.0, 0.02, 0.1, 0.2)
"""Shares of items that are gained by chance; as many more are lost."""
COST_MARGIN = 0.05
COSTS = ("normal", "skewed")
COST_SIZES = (10, 15, 20, 30, 60, 100, 240)
TRIALS, RESAMPLES = 4000, 1000
"""Audits that are simulated, and resamples of each: fewer than an audit has, which changes the third digit."""


def passes_by_chance(n: int, margin: float, noise: float = 0.0) -> float:
    """P(a suite of n tasks passes) where each is lost with chance margin + noise and gained with chance noise."""
    lost, gained = margin + noise, noise
    chance = 0.0
    for ups, most in _passing(n, margin, gained):
        ways = math.exp(_log_choose(n, ups) + _log_power(gained, ups) + (n - ups) * math.log1p(-gained))
        chance += ways * _at_most(most, n - ups, min(1.0, lost / (1.0 - gained)))
    return chance


def _passing(n: int, margin: float, gained: float) -> Iterator[tuple[int, int]]:
    """Numbers of gained items that occur, each with the most lost ones that pass."""
    most, spread = -1, math.sqrt(n * gained * (1 - gained))
    last = math.ceil(n * gained + 8 * spread) if gained else 0
    for ups in range(min(n, last) + 1):
        while most + 1 <= n - ups and paired_trials(most + 1, ups, n)[0] > -margin:
            most += 1
        most = min(most, n - ups)
        if most >= 0 and n >= enough_trials(margin):
            yield ups, most


def _at_most(count: int, n: int, p: float) -> float:
    """The chance of so many successes or fewer in n trials."""
    if p >= 1.0:
        return float(count >= n)
    return math.fsum(
        math.exp(_log_choose(n, k) + _log_power(p, k) + (n - k) * math.log1p(-p)) for k in range(min(count, n) + 1)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_power(p: float, k: int) -> float:
    return 0.0 if k == 0 else k * math.log(p)


def passes_by_simulation(n: int, kind: str, trials: int = TRIALS, seed: int = 0) -> float:
    """The same of a cost over n documents of unlike length, each of which costs COST_MARGIN more, give or take: by a
    normal share, or by one that is small for most and large for few ("skewed")."""
    rng = np.random.default_rng(seed)
    passed = 0
    for trial in range(trials):
        old_N = rng.lognormal(7, 0.7, n) * rng.normal(1, 0.1, n).clip(0.5)
        more_N = rng.normal(COST_MARGIN, 0.06, n) if kind == "normal" else rng.exponential(COST_MARGIN, n)
        passed += studentised(-more_N * old_N, old_N, trial, RESAMPLES)[0] > -COST_MARGIN
    return passed / trials


def main() -> None:
    """Print both tables."""
    print("shares of success: P(pass) where the true loss is the margin, by the share gained by chance")
    print(f"{'items':>5} {'margin':>7}" + "".join(f"{noise:>8.0%}" for noise in NOISES))
    for n in SIZES:
        for margin in MARGINS:
            if n >= enough_trials(margin):
                chances = [passes_by_chance(n, margin, noise) for noise in NOISES]
                print(f"{n:5} {margin:7.0%}" + "".join(f"{chance:8.1%}" for chance in chances))
    print(f"costs: the same, simulated {TRIALS:,} times, margin {COST_MARGIN:.0%}")
    print(f"{'items':>5}" + "".join(f"{kind:>8}" for kind in COSTS))
    for n in COST_SIZES:
        print(f"{n:5}" + "".join(f"{passes_by_simulation(n, kind):8.1%}" for kind in COSTS))


if __name__ == "__main__":
    main()
