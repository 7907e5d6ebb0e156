"""The compute-optimal models of a study: the curves of its budgets, where each is lowest, and the laws through these.

Legend: n runs of a budget, B budgets whose optimum was measured, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.scaling.forecast import BenchmarkScore, LogLine
from llama3.scaling.isoflop import PARAMETERS, Noise, Parabola
from llama3.scaling.power_law import PowerLaw
from llama3.scaling.runs import FLOPS

DRAWS = 2000
"""Of the bootstrap over parabolas."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished run of a study."""

    key: str
    budget: float
    parameters: int
    tokens: int
    loss: float
    """Of held-out text, in bits per byte."""
    scored: BenchmarkScore
    seed: int
    lr: float

    def to_json(self) -> dict[str, Any]:
        """A row of runs.jsonl."""
        row = asdict(self)
        scored = row.pop("scored")
        return {**row, **scored, "flops": float(FLOPS * self.parameters * self.tokens)}


@dataclass(frozen=True, slots=True)
class Curves:
    """The parabolas of one budget: loss, NLL and accuracy over ln(tokens)."""

    budget: float
    runs: Sequence[Measured]
    loss: Parabola
    nll: Parabola
    accuracy: Parabola

    @classmethod
    def of(cls, runs: Sequence[Measured]) -> Curves:
        """Through all runs of a budget."""
        tokens_n = np.array([run.tokens for run in runs], float)
        figures = ([run.loss for run in runs], [r.scored.nll for r in runs], [r.scored.accuracy for r in runs])
        return cls(runs[0].budget, runs, *(Parabola.through(tokens_n, np.array(row)) for row in figures))

    @property
    def tokens_n(self) -> np.ndarray:
        """Training tokens of the runs."""
        return np.array([run.tokens for run in self.runs], float)

    def residuals(self, name: str) -> np.ndarray:
        """How far the runs lie from a curve."""
        curve = getattr(self, name)
        values = [run.loss if name == "loss" else getattr(run.scored, name) for run in self.runs]
        return np.array(values) - curve(np.log(self.tokens_n))

    def optimum(self) -> dict[str, float]:
        """Tokens, size and figures where the loss is lowest."""
        at = float(self.loss.lowest)
        return {
            "tokens": math.exp(at),
            "parameters": self.budget / (FLOPS * math.exp(at)),
            "loss": float(self.loss(at)),
            "nll": float(self.nll(at)),
            "accuracy": float(self.accuracy(at)),
        }


@dataclass(frozen=True, slots=True)
class Optima:
    """The curves of all budgets, and what goes through the optima that were measured, with draws of it. Laws are None
    where fewer than two were, draws where no run is left over to tell chance by."""

    curves: Sequence[Curves]
    used: Sequence[Curves]
    """Those whose optimum was measured."""
    logs_BR: np.ndarray | None = None
    """ln(tokens) of the optimum of each used budget in each draw."""
    law: PowerLaw | None = None
    law_R: PowerLaw | None = None
    line: LogLine | None = None
    """NLL of log FLOPs."""
    line_R: LogLine | None = None
    baseline: LogLine | None = None
    """Accuracy as a line in log FLOPs: what a forecast must beat."""


def find_optima(runs: Sequence[Measured], rng: np.random.Generator) -> Optima:
    """Everything that follows from the curves."""
    budgets = sorted({run.budget for run in runs})
    curves = [Curves.of([run for run in runs if run.budget == budget]) for budget in budgets]
    used = [curve for curve in curves if curve.loss.status == "measured"]
    if len(used) < 2:
        return Optima(curves, used)
    x_B = np.array([curve.budget for curve in used])
    optima = [curve.optimum() for curve in used]
    tokens_B, nll_B, accuracy_B = (np.array([o[name] for o in optima]) for name in ("tokens", "nll", "accuracy"))
    logs_BR, nll_BR = _redrawn(curves, used, rng)
    return Optima(
        curves,
        used,
        logs_BR,
        law=PowerLaw.through(x_B, np.log(tokens_B)),
        law_R=None if logs_BR is None else PowerLaw.through(x_B, logs_BR),
        line=LogLine.through(x_B, nll_B),
        line_R=None if nll_BR is None else LogLine.through(x_B, nll_BR),
        baseline=LogLine.through(x_B, accuracy_B),
    )


def _redrawn(
    curves: Sequence[Curves], used: Sequence[Curves], rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """ln(tokens) [B, R] and NLL [B, R] of the optima of losses and NLLs drawn anew around the curves."""
    noises = [Noise.around([curve.residuals(name) for curve in curves], PARAMETERS) for name in ("loss", "nll")]
    if noises[0] is None or noises[1] is None:
        return None, None
    optima, nlls = [], []
    for curve in used:
        x_n = curve.tokens_n
        drawn = [
            Parabola.through(x_n, getattr(curve, name)(np.log(x_n))[:, None] + noise.draw(rng, len(x_n), DRAWS))
            for name, noise in zip(("loss", "nll"), noises, strict=True)
            if noise is not None
        ]
        optima.append(drawn[0].lowest)
        # A draw whose minimum lies where nothing was measured takes the NLL of the nearest that was.
        nlls.append(drawn[1](drawn[1].within(np.nan_to_num(drawn[0].lowest, nan=drawn[1].centre))))
    optima_BR = np.array(optima)
    # A power law cannot pass through a budget without a minimum: such a draw gives none.
    return np.where(np.isfinite(optima_BR).all(0), optima_BR, np.nan), np.array(nlls)
