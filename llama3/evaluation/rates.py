"""Shares of rows on which something happened, as a judge who errs saw it: raw, corrected, and their paired changes.

A judge calls some events none and some non-events one. Its errors are counted on rows that people labelled; from the
share that it saw follows the share that there is (Rogan & Gladen 1978): (seen + Sp - 1) / (Se + Sp - 1). What a guard
blocked is known without a judge, and so is what nobody could judge: that counts against the model.

Intervals are drawn: the rows anew and the judge's two rates anew, from what the counts leave open (Beta distributions
with Jeffreys' prior). Few labelled rows make wide intervals. Legend: N rows, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.evaluation.intervals import RESAMPLES, TAIL, Rate, paired_trials, wilson

PRIOR = 0.5
"""Of each count: Jeffreys' prior of a share."""
FEW = 10
"""Rows that changed, below which a bootstrap of a change sees too little: the exact interval counts too."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What happened on N rows: `event_N`, and where that is what a judge says, who may err: `judged_N`. Else it is
    known: a guard blocked, or nobody could judge (`unjudged_N`), which counts as an event. All bool."""

    event_N: np.ndarray
    judged_N: np.ndarray
    unjudged_N: np.ndarray

    @classmethod
    def of(cls, p_N: Sequence[float | None], threshold: float = 0.5) -> Outcomes:
        """From a judge's probabilities; None is no judgement."""
        p = np.array([math.nan if p is None else p for p in p_N], np.float64)
        return cls((p >= threshold) | np.isnan(p), ~np.isnan(p), np.isnan(p))

    def known(self, where_N: np.ndarray, event: bool) -> Outcomes:
        """The same where the outcome of some rows is known, whatever was judged of them."""
        return Outcomes(np.where(where_N, event, self.event_N), self.judged_N & ~where_N, self.unjudged_N & ~where_N)

    def of_rows(self, where_N: np.ndarray) -> Outcomes:
        """Some of the rows."""
        return Outcomes(self.event_N[where_N], self.judged_N[where_N], self.unjudged_N[where_N])

    @property
    def unjudged(self) -> int:
        """Rows that nobody could judge."""
        return int(self.unjudged_N.sum())

    @property
    def rate(self) -> Rate:
        """The share of events as it was seen, with Wilson's interval."""
        return wilson(int(self.event_N.sum()), len(self.event_N))

    @property
    def states_N(self) -> np.ndarray:
        """0 known to be none, 1 known to be one, 2 judged to be none, 3 judged to be one."""
        states_N: np.ndarray = self.event_N + 2 * self.judged_N
        return states_N


@dataclass(frozen=True, slots=True)
class JudgeErrors:
    """A judge beside people, on labelled rows: events that it saw and missed, others that it passed and called one."""

    hits: int
    misses: int
    passes: int
    alarms: int

    @property
    def sensitivity(self) -> Rate:
        """The share of events that it sees."""
        return wilson(self.hits, self.hits + self.misses)

    @property
    def specificity(self) -> Rate:
        """The share of other rows that it passes."""
        return wilson(self.passes, self.passes + self.alarms)

    @property
    def tells(self) -> bool:
        """Whether the judge does better than chance, as far as it was measured."""
        return self.sensitivity.rate + self.specificity.rate > 1

    def draws(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivities and specificities [B] that the counts leave possible."""
        sensitivity_B = rng.beta(self.hits + PRIOR, self.misses + PRIOR, count)
        return sensitivity_B, rng.beta(self.passes + PRIOR, self.alarms + PRIOR, count)


def corrected(outcomes: Outcomes, errors: JudgeErrors, seed: int = 0, draws: int = RESAMPLES) -> Rate:
    """The share of events that there is, with a 95 % interval that holds the uncertainty of both samples.

    A draw in which the judge tells nothing (Se + Sp <= 1) leaves everything possible. Where the measured rates say so
    the estimate is what was seen, and the interval is all of [0, 1].
    """
    states = np.bincount(outcomes.states_N, minlength=4).astype(np.float64)
    n = len(outcomes.event_N)
    if n == 0:
        return wilson(0, 0)
    if not errors.tells:
        return Rate(outcomes.rate.rate, 0.0, 1.0, n)
    measured = np.array([errors.sensitivity.rate]), np.array([errors.specificity.rate])
    found = float(_true_share(states[None], *measured)[0][0])
    rng = np.random.default_rng(seed)
    shapes = states + PRIOR * np.array([states[:2].any()] * 2 + [states[2:].any()] * 2)
    weights_B4 = rng.gamma(shapes, size=(draws, 4))
    low_B, high_B = _true_share(weights_B4, *errors.draws(rng, draws))
    low, high = float(np.quantile(low_B, TAIL)), float(np.quantile(high_B, 1 - TAIL))
    return Rate(found, min(low, found), max(high, found), n)


def _true_share(
    weights_B4: np.ndarray, sensitivity_B: np.ndarray, specificity_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The share of events [B] by the weights of the four states: the least and the most that it can be, which differ
    where a judge tells nothing."""
    total_B = weights_B4.sum(1)
    judged_B = weights_B4[:, 2] + weights_B4[:, 3]
    seen_B = weights_B4[:, 3] / np.maximum(judged_B, 1e-300)
    worth_B = sensitivity_B + specificity_B - 1
    tells_B = worth_B > 0
    share_B = ((seen_B + specificity_B - 1) / np.where(tells_B, worth_B, 1.0)).clip(0, 1)
    ends = (np.where(tells_B, share_B, blind) for blind in (0.0, 1.0))
    low_B, high_B = ((weights_B4[:, 1] + judged_B * end_B) / total_B for end_B in ends)
    return low_B, high_B


@dataclass(frozen=True, slots=True)
class Difference:
    """The change of a share over the same n rows, with its 95 % interval; `relative` is the change as a share of what
    was there before, None where that was nothing."""

    change: float
    low: float
    high: float
    relative: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def paired_difference(
    before: Outcomes, after: Outcomes, errors: JudgeErrors | None = None, seed: int = 0, draws: int = RESAMPLES
) -> Difference:
    """How the share of events changed, by a bootstrap of pairs (Efron 1979): whole rows are drawn, before and after
    together. With `errors` both shares are corrected in each draw, by the same judge.

    Where fewer than FEW rows changed, the interval holds the exact one (`paired_trials`) too: a bootstrap of changes
    that are not there is certain of nothing with good reason.
    """
    n = len(before.event_N)
    if n != len(after.event_N):
        raise ValueError(f"{n} rows before, {len(after.event_N)} after")
    if n == 0:
        return Difference(0.0, -1.0, 1.0, None, 0)
    gained = int((after.event_N & ~before.event_N).sum())
    lost = int((before.event_N & ~after.event_N).sum())
    if errors is not None and not errors.tells:
        return _difference(before.rate.rate, after.rate.rate, -1.0, 1.0, n)
    rng = np.random.default_rng(seed)
    cells = np.bincount(4 * before.states_N + after.states_N, minlength=16)
    (was, _), (now, _) = _rates_of(cells.reshape(1, 4, 4), _measured(errors))
    drawn_B44 = rng.multinomial(n, cells / n, draws).reshape(draws, 4, 4)
    possible = _measured(errors, draws) if errors is None else errors.draws(rng, draws)
    (least_was, most_was), (least_now, most_now) = _rates_of(drawn_B44, possible)
    low = float(np.quantile(least_now - most_was, TAIL))
    high = float(np.quantile(most_now - least_was, 1 - TAIL))
    if gained + lost < FEW:
        exact = paired_trials(lost, gained, n)
        wider = 1.0 if errors is None else _widening(*possible)
        low, high = max(-1.0, min(low, exact[0] * wider)), min(1.0, max(high, exact[1] * wider))
    return _difference(float(was[0]), float(now[0]), low, high, n)


def _difference(was: float, now: float, low: float, high: float, n: int) -> Difference:
    change = now - was
    return Difference(change, min(low, change), max(high, change), change / was if was > 0 else None, n)


Columns = tuple[np.ndarray, np.ndarray]


def _measured(errors: JudgeErrors | None, count: int = 1) -> Columns:
    """The measured sensitivity and specificity; of no judge's errors, 1 and 1."""
    rates = (1.0, 1.0) if errors is None else (errors.sensitivity.rate, errors.specificity.rate)
    return np.full(count, rates[0]), np.full(count, rates[1])


def _rates_of(cells_B44: np.ndarray, rates: Columns) -> tuple[Columns, Columns]:
    """The share before and after, each at its least and its most [B]."""
    before, after = (_true_share(cells_B44.sum(axis).astype(np.float64), *rates) for axis in (2, 1))
    return before, after


def _widening(sensitivity_B: np.ndarray, specificity_B: np.ndarray) -> float:
    """By how much a change that was seen may be smaller than the one that there is."""
    worth = float(np.quantile(sensitivity_B + specificity_B - 1, TAIL))
    return 1 / worth if worth > 0 else math.inf


def cohens_kappa(errors: JudgeErrors, seed: int = 0, draws: int = RESAMPLES) -> Rate:
    """Agreement beyond chance (Cohen 1960): (observed - by chance) / (1 - by chance), with a bootstrap interval.

    1 where everybody agrees that all rows are of one kind.
    """
    counts = np.array([errors.hits, errors.misses, errors.alarms, errors.passes], np.float64)
    n = int(counts.sum())
    if n == 0:
        return Rate(math.nan, -1.0, 1.0, 0)
    drawn_B4 = np.random.default_rng(seed).multinomial(n, counts / n, draws)
    low, high = np.quantile(_kappa(drawn_B4), [TAIL, 1 - TAIL])
    return Rate(float(_kappa(counts[None])[0]), float(low), float(high), n)


def _kappa(counts_B4: np.ndarray) -> np.ndarray:
    hits, misses, alarms, passes = counts_B4.T
    n = counts_B4.sum(1)
    observed = (hits + passes) / n
    chance = ((hits + misses) * (hits + alarms) + (alarms + passes) * (misses + passes)) / (n * n)
    kappa: np.ndarray = np.where(chance < 1, (observed - chance) / np.where(chance < 1, 1 - chance, 1.0), 1.0)
    return kappa
