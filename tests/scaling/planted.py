"""Studies whose truth is known: runs with losses, NLLs and accuracies by planted laws, and noise from a seed."""

from __future__ import annotations

import math

import numpy as np

from llama3.scaling.forecast import BenchmarkScore
from llama3.scaling.loss_law import LossLaw
from llama3.scaling.optima import Measured

BUDGETS = (1e18, 3e18, 1e19, 3e19)
FACTOR, EXPONENT = 0.3, 0.53
CHINCHILLA = LossLaw(floor=1.69, A=406.4, B=410.7, a=0.34, b=0.28)


def nll(flops: float) -> float:
    """Of the compute-optimal model."""
    return 1.4 - 0.05 * math.log10(flops / 1e18)


def accuracy(nll: float) -> float:
    return 0.25 + 0.75 / (1 + math.exp(-8 * (1.3 - nll)))


def scored(value: float, rng: np.random.Generator | None = None, items: int = 2000) -> BenchmarkScore:
    true = accuracy(value)
    return BenchmarkScore(value, true if rng is None else rng.binomial(items, true) / items, items, 0.25)


def parabolas(seed: int = 0, noise: float = 0.0, sizes: int = 5, budgets=BUDGETS) -> list[Measured]:
    """Losses that are parabolas in log(tokens), lowest at FACTOR x FLOPs^EXPONENT tokens."""
    rng = np.random.default_rng(seed)
    runs = []
    for flops in budgets:
        best = FACTOR * flops**EXPONENT
        for ratio in np.geomspace(1 / 3, 3, sizes):
            tokens = best * ratio * 1.1
            u2 = math.log(tokens / best) ** 2
            loss = 3 - 0.05 * math.log(flops / 1e18) + 0.03 * u2 + noise * rng.standard_normal()
            cost = nll(flops) + 0.01 * u2 + noise * rng.standard_normal()
            runs.append(measured(flops, tokens, loss, scored(cost, rng), len(runs)))
    return runs


def of_law(law: LossLaw = CHINCHILLA, noise: float = 0.0, seed: int = 0, budgets=BUDGETS, sizes: int = 7):
    """Losses by a law of parameters and tokens."""
    rng = np.random.default_rng(seed)
    runs = []
    for flops in budgets:
        _, best = law.optimum(flops)
        for ratio in np.geomspace(1 / 3, 3, sizes):
            tokens = best * ratio
            loss = law(flops / 6 / tokens, tokens) * math.exp(noise * rng.standard_normal())
            runs.append(measured(flops, tokens, loss, scored(nll(flops)), len(runs)))
    return runs


def measured(flops: float, tokens: float, loss: float, on_benchmark: BenchmarkScore, number: int) -> Measured:
    return Measured(f"run-{number}", flops, round(flops / 6 / tokens), round(tokens), loss, on_benchmark, 1, 1e-3)
