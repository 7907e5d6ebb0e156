"""The report of a run: `report.json` holds every figure, `report.html` shows them and nothing else.

The page is one file without scripts or outside resources; its plots are inline SVG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from llama3.evaluation.charts import funnel_chart, line_chart, rate_chart
from llama3.evaluation.intervals import Rate

SCHEMA = 1
MOST_POINTS = 300
"""Points kept of each curve."""


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, evenly chosen, the last one always among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def curves(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[tuple[float, float]]]:
    """`metric` over the step, by stage, from the rows of `metrics.jsonl`. A step logged twice counts once."""
    by_stage: dict[str, dict[float, float]] = {}
    for row in rows:
        if isinstance(row.get(metric), (int, float)):
            by_stage.setdefault(row["stage"], {})[row["step"]] = row[metric]
    return {stage: thin(sorted(points.items())) for stage, points in by_stage.items()}


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report. `report` is the content of `report.json`."""
    source = (files("llama3.evaluation") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    rates = {name: Rate(**rate) for name, rate in report["pass_rate"].items()}
    loss = report["loss"]
    return environment.from_string(source).render(
        report=report,
        pass_rates=rate_chart(rates),
        funnel=funnel_chart([(name, count) for name, count in report["funnel"]]),
        losses=[(stage, line_chart({stage: points}, "step", "loss")) for stage, points in loss.items()],
        percent=lambda value: f"{100 * value:.1f} %",
    )
