"""`forecast.html`: the plots and tables of a study on one page that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from llama3.evaluation.charts import fit_chart
from llama3.evaluation.templates import style, template
from llama3.scaling.forecast import BenchmarkScore, Sigmoid
from llama3.scaling.optima import Measured
from llama3.scaling.table import (
    BUDGETS_HEAD,
    LEFT_OUT_HEAD,
    budget_rows,
    law_rows,
    left_out_rows,
    left_out_words,
)

Points = list[tuple[float, float]]


def render(runs: Sequence[Measured], trained: Sequence[BenchmarkScore], fits: Mapping[str, Any]) -> str:
    """The page of a study: its table of runs and what was fitted to it."""
    charts = [_isoflop(runs, fits), _tokens(fits), *_steps(runs, trained, fits)]
    # They escape what they show.
    plots = [(title, Markup(chart)) for title, chart in charts]
    page = template("llama3.scaling", "forecast.html.jinja").render(
        style=style(),
        plots=plots,
        laws=list(law_rows(fits)),
        budgets=(BUDGETS_HEAD, list(budget_rows(fits))),
        left_out=(LEFT_OUT_HEAD, list(left_out_rows(fits))),
        left_out_words=left_out_words(fits),
        convention=fits["convention"],
    )
    return page.encode("utf-8", "replace").decode()


def _isoflop(runs: Sequence[Measured], fits: Mapping[str, Any]) -> tuple[str, str]:
    """Loss over tokens, one parabola a budget."""
    points: dict[str, Points] = {}
    curves: dict[str, Points] = {}
    for row in fits["budgets"]:
        name, own = f"{row['flops']:.3g}", [run for run in runs if run.budget == row["flops"]]
        points[name] = [(math.log10(run.tokens), run.loss) for run in own]
        logs = np.linspace(math.log(min(run.tokens for run in own)), math.log(max(run.tokens for run in own)), 40)
        c0, c1, c2 = row["curve"]
        u = logs - row["centre"]
        heights = c0 + c1 * u + c2 * u * u
        curves[name] = list(zip((logs / math.log(10)).tolist(), heights.tolist(), strict=True))
    chart = fit_chart(points, curves, "training tokens, log10", "bits per byte")
    return "Loss at equal FLOPs (paper, figure 2)", chart


def _tokens(fits: Mapping[str, Any]) -> tuple[str, str]:
    """Compute-optimal tokens over FLOPs."""
    measured = [(row["flops"], row["optimum"]["tokens"]) for row in fits["budgets"] if row["optimum"]]
    points = {"measured": [(math.log10(x), math.log10(y)) for x, y in measured]}
    curves: dict[str, Points] = {}
    if (law := fits["tokens_law"]) is not None:
        ends = [fits["budgets"][0]["flops"], fits["forecast"]["flops"]]
        curves["law"] = [(math.log10(x), math.log10(law["factor"]) + law["exponent"] * math.log10(x)) for x in ends]
    chart = fit_chart(points, curves, "FLOPs, log10", "tokens, log10")
    return "Compute-optimal training tokens (figure 3)", chart


def _steps(
    runs: Sequence[Measured], trained: Sequence[BenchmarkScore], fits: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Both steps of the forecast of the benchmark."""
    told, line = fits["forecast"], fits["benchmark"]["line"]
    optima = [(math.log10(row["flops"]), row["optimum"]["nll"]) for row in fits["budgets"] if row["optimum"]]
    first: dict[str, Points] = {"compute-optimal": optima}
    curves: dict[str, Points] = {}
    if line is not None:
        xs = [math.log10(fits["budgets"][0]["flops"]), math.log10(told["flops"])]
        curves["line"] = [(x, line["at_one"] + line["slope"] * x) for x in xs]
    second: dict[str, Points] = {"study": [(run.scored.nll, run.scored.accuracy) for run in runs]}
    if trained:
        second["trained"] = [(model.nll, model.accuracy) for model in trained]
    sigmoids: dict[str, Points] = {}
    if fits["benchmark"]["sigmoid"] is not None:
        sigmoid = Sigmoid(**fits["benchmark"]["sigmoid"])
        seen = [x for points in second.values() for x, _ in points]
        seen += [told["nll"]["value"]] if told["nll"]["value"] is not None else []
        xs = np.linspace(min(seen), max(seen), 40).tolist()
        sigmoids["sigmoid"] = [(x, float(sigmoid(x))) for x in xs]
    return [
        (
            "NLL of correct answers over FLOPs (figure 4, left)",
            fit_chart(first, curves, "FLOPs, log10", "nats/character"),
        ),
        ("Accuracy over that NLL (figure 4, right)", fit_chart(second, sigmoids, "nats per character", "accuracy")),
    ]
