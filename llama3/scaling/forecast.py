"""A benchmark's score forecast in two steps (paper 3.2.1, figure 4): from FLOPs to what a correct answer costs the
compute-optimal model per character, by a line in log FLOPs; from that cost to accuracy, by a sigmoid. The first step
knows models of the study only, the second further trained ones too.

Accuracy begins at that of guessing and ends at 1: chance + (1 - chance) * sigmoid(steepness * (middle - nll)).

Legend: m models, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.evaluation.intervals import wilson

STEPS = 60
_EDGE = 1e-9


@dataclass(frozen=True, slots=True)
class LogLine:
    """y = at_one + slope * log10(x). Numbers, or arrays [R]."""

    at_one: Any
    slope: Any

    @classmethod
    def through(cls, x_B: np.ndarray, y_BR: np.ndarray) -> LogLine:
        """Least squares. x: [B]; y: [B], or [B, R]."""
        logs_B = np.log10(x_B)
        found, *_ = np.linalg.lstsq(np.stack([np.ones_like(logs_B), logs_B], 1), y_BR, rcond=None)
        return cls(found[0], found[1])

    def __call__(self, x: float) -> Any:
        """y at x."""
        return self.at_one + self.slope * math.log10(x)


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """A model's figures on the benchmark."""

    nll: float
    """Negative log-likelihood of a correct answer per character, in nats; the mean over items."""
    accuracy: float
    items: int
    chance: float


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """Accuracy of NLL per character."""

    chance: float
    steepness: float
    """Above 0: accuracy falls as the NLL rises."""
    middle: float
    """NLL at which the accuracy is half-way from chance to 1."""

    def __call__(self, nll: Any) -> Any:
        """Accuracy."""
        z = np.clip(self.steepness * (self.middle - np.asarray(nll)), -500, 500)
        return self.chance + (1 - self.chance) / (1 + np.exp(-z))

    def to_json(self) -> dict[str, float]:
        """The fields as plain data."""
        return asdict(self)


def fit_sigmoid(models: Sequence[BenchmarkScore]) -> Sigmoid | None:
    """The likeliest sigmoid of binomial answers, by Fisher scoring. None where it would say nothing: no model is above
    chance, all NLLs are the same, or accuracy does not fall as the NLL rises."""
    nll_m = np.array([model.nll for model in models])
    if not any(_above_chance(model) for model in models) or float(np.ptp(nll_m)) < _EDGE:
        return None
    accuracy_m = np.array([model.accuracy for model in models])
    items_m = np.array([model.items for model in models], float)
    chance = float(np.mean([model.chance for model in models]))
    centre, scale = float(nll_m.mean()), float(nll_m.std())
    design_m2 = np.stack([np.ones_like(nll_m), (nll_m - centre) / scale], 1)

    def parts(beta_2: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        s_m = 1 / (1 + np.exp(-np.clip(design_m2 @ beta_2, -30, 30)))
        p_m = np.clip(chance + (1 - chance) * s_m, _EDGE, 1 - _EDGE)
        likelihood = float(items_m @ (accuracy_m * np.log(p_m) + (1 - accuracy_m) * np.log(1 - p_m)))
        return p_m, (1 - chance) * s_m * (1 - s_m), likelihood

    beta_2, damping = np.array([0.0, -1.0]), 1e-3
    p_m, slope_m, likelihood = parts(beta_2)
    for _ in range(STEPS):
        weight_m = items_m / (p_m * (1 - p_m))
        score_2 = design_m2.T @ (weight_m * (accuracy_m - p_m) * slope_m)
        information_22 = design_m2.T @ (design_m2 * (weight_m * slope_m**2)[:, None])
        tried_2 = beta_2 + np.linalg.solve(information_22 + (damping + _EDGE) * np.eye(2), score_2)
        found = parts(tried_2)
        if abs(found[2] - likelihood) <= _EDGE * abs(likelihood):
            break
        if found[2] > likelihood:
            beta_2, (p_m, slope_m, likelihood), damping = tried_2, found, damping / 10
        else:
            damping = max(damping, 1e-6) * 10
    if not beta_2[1] < 0:
        return None
    return Sigmoid(chance, float(-beta_2[1] / scale), float(centre - scale * beta_2[0] / beta_2[1]))


def redraw_sigmoid(models: Sequence[BenchmarkScore], rng: np.random.Generator, draws: int) -> list[Sigmoid | None]:
    """Sigmoids of models drawn with replacement."""
    drawn = rng.integers(len(models), size=(draws, len(models)))
    return [fit_sigmoid([models[i] for i in row]) for row in drawn]


def scatter(models: Sequence[BenchmarkScore], sigmoid: Sigmoid) -> float:
    """Root mean square of how far measured accuracies lie from the sigmoid."""
    return math.sqrt(float(np.mean([(model.accuracy - float(sigmoid(model.nll))) ** 2 for model in models])))


def _above_chance(model: BenchmarkScore) -> bool:
    """By its 95 % interval."""
    return wilson(round(model.accuracy * model.items), model.items).low > model.chance
