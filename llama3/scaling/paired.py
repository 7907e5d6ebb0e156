"""Models that differ in their data alone, compared on the same items and over the same seeds.

Two things make a difference uncertain: which items were held out, and the luck of a training (weights drawn, order of
data). Both are drawn again: items with replacement, for all arms the same ones (a paired bootstrap); and the luck from
the scatter that the two-way table of arms and seeds leaves when the mean of each arm and of each seed are taken off,
pooled over arms. That scatter is known from (C - 1)(S - 1) free runs only, which is drawn too (see `Noise`).

Letters: C arms, S seeds, N items of a suite, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama3.artifacts import Artifact
from llama3.errors import DataError, Problem
from llama3.evaluation.audit import read_suites
from llama3.evaluation.intervals import TAIL, way
from llama3.scaling.isoflop import Noise

NOT_PAIRED = DataError.declare(
    "L3-SCL-030",
    "the models cannot be compared on the suite {suite}",
    why="{why}",
    fix="mend the evaluator or its options, or leave the suite out; finished runs are kept",
)

DRAWS = 4000
_CELLS = 2**22
"""Drawn items held in memory at once."""


@dataclass(frozen=True, slots=True)
class PairedScores:
    """The scores [C, S, N] of the same N items under every arm and seed, and the items' sizes [N]. A figure is the sum
    of scores over the sum of sizes."""

    cost: bool
    """Whether less is better."""
    scores_CSN: np.ndarray
    sizes_N: np.ndarray

    @property
    def figures_CS(self) -> np.ndarray:
        """The figure of every model."""
        figures: np.ndarray = self.scores_CSN.sum(2) / self.sizes_N.sum()
        return figures

    def redrawn(self, rng: np.random.Generator, draws: int) -> np.ndarray:
        """[C, R]: the mean figure of each arm where other items had been held out."""
        mean_NC, n = self.scores_CSN.mean(1).T, len(self.sizes_N)
        found = []
        for start in range(0, draws, at_once := max(1, _CELLS // n)):
            rows = min(at_once, draws - start)
            counts_RN = rng.multinomial(n, np.full(n, 1 / n), size=rows)
            found.append((counts_RN @ mean_NC) / (counts_RN @ self.sizes_N)[:, None])
        return np.concatenate(found).T


def paired_scores(reports: Sequence[Sequence[Artifact]]) -> dict[str, PairedScores]:
    """The suites of C x S evaluations. Raises DataError (L3-SCL-030) for all suites that failed, or whose items are
    not the same ones everywhere, in number above 1 and finite."""
    read = [[read_suites(report) for report in of_arm] for of_arm in reports]
    found: dict[str, PairedScores] = {}
    problems: list[Problem] = []
    for name in read[0][0]:
        suites = [[evaluation.get(name) for evaluation in of_arm] for of_arm in read]
        flat = [suite for of_arm in suites for suite in of_arm if suite is not None]
        error = next((suite.error for suite in flat if suite.error), "")
        ids = list(flat[0].rows)
        if error or len(flat) != len(read) * len(read[0]) or any(list(suite.rows) != ids for suite in flat):
            problems.append(NOT_PAIRED.problem("suites", suite=name, why=error or "their items are not the same"))
            continue
        scores = np.stack([np.stack([suite.column("score") for suite in of_arm if suite]) for of_arm in suites])
        sizes = flat[0].column("weight", 1.0)
        if len(ids) < 2 or not (np.isfinite(scores).all() and np.isfinite(sizes).all() and sizes.sum() > 0):
            why = f"of {len(ids)} items not two have finite scores and sizes"
            problems.append(NOT_PAIRED.problem("suites", suite=name, why=why))
            continue
        found[name] = PairedScores(flat[0].better == "lower", scores, sizes)
    if problems:
        raise DataError.of(problems)
    return found


@dataclass(frozen=True, slots=True)
class ArmDraws:
    """What an objective is for each arm: its mean over seeds [C], and that in each of R draws [C, R]."""

    cost: bool
    value_C: np.ndarray
    value_CR: np.ndarray

    def gain(self, arm: int, reference: int, looks: int = 1) -> tuple[float, tuple[float, float]]:
        """By how much an arm is better than another, with its 95 % interval. Of `looks` such intervals together 95 %
        hold all that they should (Bonferroni), so that the best of many is not better by having been looked for."""
        sign, tail = -1.0 if self.cost else 1.0, TAIL / looks
        low, high = np.quantile(sign * (self.value_CR[arm] - self.value_CR[reference]), [tail, 1 - tail])
        return float(sign * (self.value_C[arm] - self.value_C[reference])), (float(low), float(high))

    def best(self) -> np.ndarray:
        """[C]: in which share of the draws each arm is the best one."""
        places_R = (self.value_CR if self.cost else -self.value_CR).argmin(0)
        return np.bincount(places_R, minlength=len(self.value_C)) / self.value_CR.shape[1]


def draw(suites: Mapping[str, PairedScores], shares: Mapping[str, float], seed: int) -> ArmDraws:
    """The weighted mean of suites that are all costs, or all not. Needs two seeds and two arms."""
    rng = np.random.default_rng(seed)
    chosen = [(suites[name], share) for name, share in shares.items()]
    value_CS = sum((share * suite.figures_CS for suite, share in chosen), np.zeros(chosen[0][0].scores_CSN.shape[:2]))
    value_CR = sum(share * suite.redrawn(rng, DRAWS) for suite, share in chosen)
    arms, seeds = value_CS.shape
    luck_CR = luck(value_CS).draw(rng, arms, DRAWS) / math.sqrt(seeds)
    return ArmDraws(chosen[0][0].cost, value_CS.mean(1), np.asarray(value_CR + luck_CR))


def luck(value_CS: np.ndarray) -> Noise:
    """By how much one training differs by chance, once arms and seeds are accounted for."""
    arms, seeds = value_CS.shape
    rest = value_CS - value_CS.mean(0) - value_CS.mean(1, keepdims=True) + value_CS.mean()
    free = (arms - 1) * (seeds - 1)
    return Noise(math.sqrt(float((rest * rest).sum()) / free), free)


def gain_rows(suites: Mapping[str, PairedScores], arm: int, reference: int, seed: int) -> Iterator[dict[str, Any]]:
    """Every suite by itself: both figures, the gain with its interval, and what may be said of it."""
    for name, suite in suites.items():
        drawn = draw(suites, {name: 1.0}, seed)
        gain, ends = drawn.gain(arm, reference)
        figures = suite.figures_CS.mean(1)
        yield {
            "suite": name,
            "better": "lower" if suite.cost else "higher",
            "items": len(suite.sizes_N),
            "value": float(figures[arm]),
            "reference": float(figures[reference]),
            "gain": gain,
            "interval": ends,
            "verdict": way(*ends),
        }
