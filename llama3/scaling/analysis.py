"""From the table of runs to laws and forecasts, and how far a forecast was off when the largest budget was left out.

Everything here is a pure function of the table and a seed; what it cannot know it says in words instead of a figure.

Legend: R draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llama3.scaling.forecast import BenchmarkScore, Sigmoid, fit_sigmoid, redraw_sigmoid, scatter
from llama3.scaling.isoflop import Interval, interval
from llama3.scaling.loss_law import LossLaw, fit_law, redraw_law
from llama3.scaling.optima import Curves, Measured, Optima, find_optima
from llama3.scaling.runs import FLOPS

SLOW_DRAWS = 100
"""Of the bootstraps that fit anew by iteration."""
WIDE = 10.0
"""An interval of a size whose ends differ by more than this factor is called useless."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Everything that was fitted, with draws of all of it."""

    optima: Optima
    loss_law: LossLaw | None
    loss_laws: Sequence[LossLaw]
    sigmoid: Sigmoid | None
    sigmoids: Sequence[Sigmoid | None]


def fit(runs: Sequence[Measured], trained: Sequence[BenchmarkScore], seed: int) -> Fit:
    """All laws of a table of runs."""
    rng = np.random.default_rng(seed)
    models = [*(run.scored for run in runs), *trained]
    sigmoid = fit_sigmoid(models)
    return Fit(
        find_optima(runs, rng),
        *_loss_law(runs, rng),
        sigmoid,
        redraw_sigmoid(models, rng, SLOW_DRAWS) if sigmoid is not None else [],
    )


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
    line = found.optima.baseline
    nll, accuracy = _benchmark(found, flops)
    tokens, parameters = _size(found.optima, flops)
    return {
        "flops": flops,
        "tokens": tokens,
        "parameters": parameters,
        "loss": _loss(found, flops),
        "nll": nll,
        "accuracy": accuracy,
        "accuracy_by_line": None if line is None else float(line(flops)),
    }


def _size(best: Optima, flops: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tokens and parameters of the compute-optimal model, by the law of tokens."""
    if best.law is None:
        return _told(None), _told(None)
    tokens = float(best.law(flops))
    if best.law_R is None:
        return _told(tokens), _told(flops / (FLOPS * tokens))
    tokens_R = best.law_R(flops)
    # A draw without tokens, or with more than a float holds, tells no size.
    parameters_R = flops / (FLOPS * np.where(tokens_R > 0, tokens_R, np.nan))
    sizes = _told(tokens, tokens_R), _told(flops / (FLOPS * tokens), parameters_R)
    for size in sizes:
        if size["interval"] and size["interval"][1] > WIDE * size["interval"][0]:
            size["words"] = f"useless: the ends of the interval differ more than {WIDE:.0f}-fold"
    return sizes


def _loss(found: Fit, flops: float) -> dict[str, Any]:
    """Of the compute-optimal model, by the law of the loss."""
    law = found.loss_law
    if law is None or law.at_edge:
        return _told(None)
    return _told(law(*law.optimum(flops)), np.array([other(*other.optimum(flops)) for other in found.loss_laws]))


def _benchmark(found: Fit, flops: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both steps: NLL per character, and the accuracy that follows from it."""
    line, line_R, sigmoid = found.optima.line, found.optima.line_R, found.sigmoid
    if line is None:
        return _told(None), _told(None)
    nll, nll_R = float(line(flops)), None if line_R is None else line_R(flops)
    words = "" if nll > 0 else "a line leads below 0 here, which no NLL is: too far from what was measured"
    first = {**_told(nll, nll_R), "words": words}
    if sigmoid is None or words:
        return first, _told(None)
    accuracy = float(sigmoid(nll))
    if nll_R is None:
        return first, _told(accuracy)
    pairs = zip(found.sigmoids, nll_R[: len(found.sigmoids)], strict=True)
    return first, _told(accuracy, np.array([np.nan if s is None else float(s(x)) for s, x in pairs]))


def _told(value: float | None, values_R: np.ndarray | None = None) -> dict[str, Any]:
    return {"value": value, "interval": None if values_R is None else interval(values_R), "words": ""}


def analyse(runs: Sequence[Measured], trained: Sequence[BenchmarkScore], target: float, seed: int) -> dict[str, Any]:
    """fits.json of a study."""
    found = fit(runs, trained, seed)
    best = found.optima
    exponent = None if best.law_R is None else interval(np.asarray(best.law_R.exponent))
    return {
        "convention": {
            "flops": "6 x parameters x tokens",
            "parameters": "all; a tied output matrix once",
            "loss": "bits per byte of held-out text",
            "nll": "nats per character of correct answers",
            "interval": "95 %",
        },
        "budgets": [_budget(best, curve) for curve in best.curves],
        "tokens_law": None
        if best.law is None
        else {
            "factor": best.law.factor,
            "exponent": float(best.law.exponent),
            "interval": exponent,
            "words": _words_of_exponent(exponent),
        },
        "loss_law": _loss_law_row(found),
        "measured": {
            "parameters": _span([run.parameters for run in runs]),
            "tokens": _span([run.tokens for run in runs]),
            "tokens_per_parameter": _span([run.tokens / run.parameters for run in runs]),
        },
        "benchmark": {
            "line": None if best.line is None else {k: float(v) for k, v in asdict(best.line).items()},
            "sigmoid": None if found.sigmoid is None else found.sigmoid.to_json(),
            "scatter": None
            if found.sigmoid is None
            else scatter([*(run.scored for run in runs), *trained], found.sigmoid),
            "words": ""
            if found.sigmoid is not None
            else "no accuracy is forecast: it does not rise above chance as the NLL falls",
        },
        "forecast": predict(found, target),
        "left_out": leave_largest_out(runs, trained, found, seed),
    }


def _loss_law_row(found: Fit) -> dict[str, Any] | None:
    law = found.loss_law
    if law is None:
        return None
    words = "useless: the runs do not tell parameters from tokens" if law.at_edge else ""
    exponents = np.array([other.token_exponent for other in found.loss_laws])
    ends = interval(exponents) if len(exponents) else None
    return {**law.to_json(), "token_exponent": law.token_exponent, "interval": ends, "words": words}


def _span(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def _budget(best: Optima, curve: Curves) -> dict[str, Any]:
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
    if status == "measured" and best.logs_BR is not None:
        place = [other.budget for other in best.used].index(curve.budget)
        row["interval"] = interval(_exp(best.logs_BR[place]))
    if status != "measured":
        side = "" if status == "no minimum" else _side(curve)
        row["words"] = f"no optimum is claimed: the curve has no minimum {side or 'at all'}"
    return row


def _exp(logs: np.ndarray) -> np.ndarray:
    """Infinite where a float cannot hold it."""
    with np.errstate(over="ignore"):
        return np.exp(logs)


def _side(curve: Curves) -> str:
    """Where more would have to be measured."""
    fewer = float(curve.loss.lowest) < curve.loss.low
    return "among these sizes; try larger models" if fewer else "among these sizes; try smaller models"


def _words_of_exponent(ends: Interval) -> str:
    if ends is None:
        return "no interval: too few runs, or curves too flat, to tell chance from the law"
    return "" if ends[0] > 0 and ends[1] < 1 else "useless: the interval does not tell whether both grow with FLOPs"


def leave_largest_out(
    runs: Sequence[Measured], trained: Sequence[BenchmarkScore], found: Fit, seed: int
) -> dict[str, Any] | None:
    """What the smaller budgets forecast of the largest one, beside what was measured there. None where its optimum was
    not measured, or that of fewer than two others."""
    largest = found.optima.curves[-1]
    if largest.loss.status != "measured":
        return None
    rest = fit([run for run in runs if run.budget < largest.budget], trained, seed)
    if rest.optima.law is None:
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
        "times": largest.budget / rest.optima.curves[-1].budget,
        "figures": rows,
        "accuracy_by_line": {"forecast": line, "error": line / measured["accuracy"] - 1},
    }
