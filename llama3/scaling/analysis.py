"""From the table of runs to laws and forecasts, and how far a forecast was off when the largest budget was left out.

Everything here is a pure function of the table and a seed; what it cannot know it says in words instead of a figure.

Legend: n runs of a budget, B budgets, R draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.scaling.forecast import Line, Scored, Sigmoid, fit_sigmoid, redraw_sigmoid, scatter
from llama3.scaling.isoflop import PARAMETERS, Interval, Noise, Parabola, interval
from llama3.scaling.loss_law import LossLaw, fit_law, redraw_law
from llama3.scaling.power_law import PowerLaw
from llama3.scaling.runs import FLOPS

DRAWS = 2000
"""Of the bootstrap over parabolas."""
SLOW_DRAWS = 200
"""Of the bootstraps that fit anew by iteration."""
WIDE = 10.0
"""An interval of a size whose ends differ by more than this factor is called useless."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A finished run of a study."""

    key: str
    budget: float
    parameters: int
    tokens: int
    loss: float
    """Of held-out text, in bits per byte."""
    scored: Scored
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
class Fit:
    """Everything that was fitted, with draws of all of it."""

    curves: Sequence[Curves]
    used: Sequence[Curves]
    """Those whose optimum was measured."""
    optima_BR: np.ndarray | None
    """ln(tokens) of the optimum of each used budget in each draw; None without a known scatter."""
    law: PowerLaw | None
    law_R: PowerLaw | None
    loss_law: LossLaw | None
    loss_laws: Sequence[LossLaw]
    line: Line | None
    line_R: Line | None
    sigmoid: Sigmoid | None
    sigmoids: Sequence[Sigmoid | None]
    baseline: Line | None
    """Accuracy as a line in log FLOPs: what a forecast must beat."""


def fit(runs: Sequence[Measured], trained: Sequence[Scored], seed: int) -> Fit:
    """All laws of a table of runs."""
    rng = np.random.default_rng(seed)
    budgets = sorted({run.budget for run in runs})
    curves = [Curves.of([run for run in runs if run.budget == budget]) for budget in budgets]
    used = [curve for curve in curves if curve.loss.status == "measured"]
    enough = len(used) >= 2
    x_B = np.array([curve.budget for curve in used])
    optima = [curve.optimum() for curve in used]
    optima_BR, nll_BR = _redrawn(curves, used, rng) if enough else (None, None)
    models = [*(run.scored for run in runs), *trained]
    loss_law, loss_laws = _loss_law(runs, rng)
    sigmoid = fit_sigmoid(models)
    return Fit(
        curves=curves,
        used=used,
        optima_BR=optima_BR,
        law=PowerLaw.through(x_B, np.array([o["tokens"] for o in optima])) if enough else None,
        law_R=None if optima_BR is None else PowerLaw.through(x_B, np.exp(optima_BR)),
        loss_law=loss_law,
        loss_laws=loss_laws,
        line=Line.through(x_B, np.array([o["nll"] for o in optima])) if enough else None,
        line_R=None if nll_BR is None else Line.through(x_B, nll_BR),
        sigmoid=sigmoid,
        sigmoids=redraw_sigmoid(models, rng, SLOW_DRAWS) if sigmoid is not None else [],
        baseline=Line.through(x_B, np.array([o["accuracy"] for o in optima])) if enough else None,
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


def _loss_law(runs: Sequence[Measured], rng: np.random.Generator) -> tuple[LossLaw | None, list[LossLaw]]:
    sizes, tokens = {run.parameters for run in runs}, {run.tokens for run in runs}
    if len(runs) < 6 or len(sizes) < 3 or len(tokens) < 3:
        return None, []
    columns = ([r.parameters for r in runs], [r.tokens for r in runs], [r.loss for r in runs])
    n, d, loss = (np.array(column, float) for column in columns)
    law = fit_law(n, d, loss)
    return law, redraw_law(law, n, d, loss, rng, SLOW_DRAWS)


def predict(found: Fit, flops: float) -> dict[str, Any]:
    """What the laws say of a budget: each figure with its interval, and in words what is wrong with it."""
    tokens_R = None if found.law_R is None else found.law_R(flops)
    nll_R = None if found.line_R is None else found.line_R(flops)
    tokens = _told(None if found.law is None else float(found.law(flops)), tokens_R)
    parameters_R = None if tokens_R is None else flops / (FLOPS * tokens_R)
    parameters = _told(None if tokens["value"] is None else flops / (FLOPS * tokens["value"]), parameters_R)
    laws = found.loss_laws
    loss = None if found.loss_law is None else found.loss_law(*found.loss_law.optimum(flops))
    nll = _told(None if found.line is None else float(found.line(flops)), nll_R)
    accuracy, accuracy_R = None, None
    if found.sigmoid is not None and nll["value"] is not None:
        accuracy = float(found.sigmoid(nll["value"]))
        if nll_R is not None:
            drawn = [np.nan if s is None else float(s(nll_R[i])) for i, s in enumerate(found.sigmoids)]
            accuracy_R = np.array(drawn)
    if nll["value"] is not None and nll["value"] <= 0:
        nll["words"] = "a line leads below 0 here, which no NLL is: too far from what was measured"
    for size in (tokens, parameters):
        if size["interval"] and size["interval"][1] > WIDE * size["interval"][0]:
            size["words"] = f"useless: the ends of the interval differ more than {WIDE:.0f}-fold"
    return {
        "flops": flops,
        "tokens": tokens,
        "parameters": parameters,
        "loss": _told(loss, np.array([law(*law.optimum(flops)) for law in laws]) if laws else None),
        "nll": nll,
        "accuracy": _told(accuracy, accuracy_R),
        "accuracy_by_line": None if found.baseline is None else float(found.baseline(flops)),
    }


def _told(value: float | None, values_R: np.ndarray | None) -> dict[str, Any]:
    return {"value": value, "interval": None if values_R is None else interval(values_R)}


def analyse(runs: Sequence[Measured], trained: Sequence[Scored], target: float, seed: int) -> dict[str, Any]:
    """fits.json of a study."""
    found = fit(runs, trained, seed)
    exponent = None if found.law_R is None else interval(np.asarray(found.law_R.exponent))
    return {
        "convention": {
            "flops": "6 x parameters x tokens",
            "parameters": "all; a tied output matrix once",
            "loss": "bits per byte of held-out text",
            "nll": "nats per character of correct answers",
            "interval": "95 %",
        },
        "budgets": [_budget(found, curve) for curve in found.curves],
        "tokens_law": None
        if found.law is None
        else {
            "factor": found.law.factor,
            "exponent": float(found.law.exponent),
            "interval": exponent,
            "words": _words_of_exponent(exponent),
        },
        "loss_law": None
        if found.loss_law is None
        else {
            **found.loss_law.to_json(),
            "token_exponent": found.loss_law.token_exponent,
            "interval": _told(0.0, np.array([law.token_exponent for law in found.loss_laws]))["interval"],
        },
        "benchmark": {
            "line": None if found.line is None else {k: float(v) for k, v in asdict(found.line).items()},
            "sigmoid": None if found.sigmoid is None else found.sigmoid.to_json(),
            "scatter": None
            if found.sigmoid is None
            else scatter([*(run.scored for run in runs), *trained], found.sigmoid),
            "words": "" if found.sigmoid is not None else "no accuracy is forecast: it does not rise above chance as "
            "the NLL falls",
        },
        "forecast": predict(found, target),
        "left_out": leave_largest_out(runs, trained, found, seed),
    }


def _budget(found: Fit, curve: Curves) -> dict[str, Any]:
    """A row of a budget. An optimum outside of what was measured is not claimed: it has no figures."""
    status = curve.loss.status
    row: dict[str, Any] = {
        "flops": curve.budget,
        "runs": len(curve.runs),
        "status": status,
        "curvature": curve.loss.curvature,
        "curve": [float(c) for c in curve.loss.coefficients],
        "centre": curve.loss.centre,
        "optimum": curve.optimum() if status == "measured" else None,
        "interval": None,
        "words": "",
    }
    if status == "measured" and found.optima_BR is not None:
        place = [other.budget for other in found.used].index(curve.budget)
        row["interval"] = interval(np.exp(found.optima_BR[place]))
    if status != "measured":
        side = "" if status == "no minimum" else _side(curve)
        row["words"] = f"no optimum is claimed: the curve has no minimum {side or 'at all'}"
    return row


def _side(curve: Curves) -> str:
    """Where more would have to be measured."""
    fewer = float(curve.loss.lowest) < curve.loss.low
    return "among these sizes; try larger models" if fewer else "among these sizes; try smaller models"


def _words_of_exponent(ends: Interval) -> str:
    if ends is None:
        return "no interval: too few runs, or curves too flat, to tell chance from the law"
    return "" if 0 < ends[0] and ends[1] < 1 else "useless: the interval does not tell whether both grow with FLOPs"


def leave_largest_out(
    runs: Sequence[Measured], trained: Sequence[Scored], found: Fit, seed: int
) -> dict[str, Any] | None:
    """What the smaller budgets forecast of the largest one, beside what was measured there. None where its optimum was
    not measured, or that of fewer than two others."""
    largest = found.curves[-1]
    if largest.loss.status != "measured":
        return None
    rest = fit([run for run in runs if run.budget < largest.budget], trained, seed)
    if rest.law is None:
        return None
    predicted, measured = predict(rest, largest.budget), largest.optimum()
    rows = {}
    for name in ("tokens", "parameters", "loss", "nll", "accuracy"):
        told = predicted[name]
        value, ends = told["value"], told["interval"]
        rows[name] = {
            "forecast": value,
            "interval": ends,
            "measured": measured[name],
            "error": None if value is None else value / measured[name] - 1,
            "inside": None if ends is None else ends[0] <= measured[name] <= ends[1],
        }
    line = predicted["accuracy_by_line"]
    return {
        "flops": largest.budget,
        "times": largest.budget / rest.curves[-1].budget,
        "figures": rows,
        "accuracy_by_line": {"forecast": line, "error": line / measured["accuracy"] - 1},
    }
