"""`report.html` from the content of `report.json`: what is shown, in which order, and what is left out.

The page shows nothing that the report does not hold. It is one file: styles inline, plots as SVG, no script, no link.
It fits a phone, follows a dark scheme and prints. What a model wrote is escaped like everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from llama3.evaluation.audit import TABLE_HEAD, table
from llama3.evaluation.charts import funnel_chart, heat_chart, histogram_chart, line_chart, rate_chart
from llama3.evaluation.intervals import Rate
from llama3.evaluation.safety_page import changes_parts, safety_parts
from llama3.evaluation.step_changes import TABLE_HEAD as CHANGES_HEAD
from llama3.evaluation.step_changes import table as changes_table
from llama3.evaluation.templates import style, template

CURVES = {"reward": "mean reward", "kl": "KL to the reference, nats", "length": "mean length, tokens"}
"""What is drawn of sampled answers, and how its axis is called."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A titled plot; where there is nothing to draw, `words` say what there is instead."""

    title: str
    chart: Markup | None = None
    words: str = ""


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report. `report` is the content of `report.json`."""
    curves = report.get("curves") or {"loss": report["loss"], **report["rollouts"]}
    page = _template().render(
        report=report,
        style=style(),
        names=[name for name, value in report["bits_per_byte_by_model"].items() if value is not None],
        pass_rates=_drawn(rate_chart({name: Rate(**row) for name, row in report["pass_rate"].items()}))
        if report["pass_rate"]
        else None,
        suites=list(suites(report.get("evaluations", {}))),
        funnel=_drawn(funnel_chart([(name, count) for name, count in report["funnel"]])) if report["funnel"] else None,
        curation=report.get("curation", {}),
        losses=list(line_figures(curves["loss"], "loss")),
        audit=[TABLE_HEAD, *table(report["audit"])] if report["audit"] else [],
        changes=[CHANGES_HEAD, *changes_table(report.get("changes", []))],
        rollouts=list(_rollouts(curves)),
        heat_maps=list(heat_figures(report.get("heat_maps", {}))),
        safety=[*changes_parts(report["safety"].get("suites", {})), *_safety_suites(report.get("evaluations", {}))],
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


def _safety_suites(evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for model, results in evaluations.items():
        yield from safety_parts(results, model)


@cache
def _template() -> jinja2.Template:
    """Compiled once: that takes longer than rendering."""
    filters = {"percent": percent, "duration": duration, "moment": moment, "trials": trials}
    return template("llama3.evaluation", "report.html.jinja", filters)


def _drawn(svg: str) -> Markup:
    return Markup(svg)  # charts escape what they show


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def trials(rates: Iterable[Mapping[str, Any]]) -> str:
    """How many trials the rates of one row stand on."""
    return " or ".join(f"{count:,}" for count in dict.fromkeys(row["n"] for row in rates if "n" in row))


def duration(seconds: float | None) -> str:
    """`4.8 s`, or `1:02:03` from a minute on."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def moment(created: str | None) -> str:
    """`2026-11-30 05:22 UTC` of the time that a manifest holds."""
    if not created:
        return ""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return created


def suites(evaluations: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One row for each suite: its name, which way is better, its figure of every model, or why there is none."""
    for suite in dict.fromkeys(name for results in evaluations.values() for name in results):
        cells = {model: results[suite] for model, results in evaluations.items() if suite in results}
        better = next((row["better"] for row in cells.values() if row.get("better")), "")
        figures = {model: headline(row) for model, row in cells.items()}
        metric = next((name for name, _ in figures.values() if name), "")
        yield {
            "suite": suite,
            "metric": metric,
            "better": better,
            "figures": {model: figure for model, (_, figure) in figures.items()},
        }


def headline(row: Mapping[str, Any]) -> tuple[str, str | Mapping[str, Any]]:
    """The first figure of a suite with its name: a rate with its interval, or a number as text."""
    if "error" in row:
        return "", f"failed: {row['error']}"
    if "not_measured" in row:
        return "", f"not measured: {row['not_measured']}"
    for name, value in row.items():
        if isinstance(value, Mapping) and "rate" in value:
            return name, value
        if isinstance(value, float):
            return name, f"{value:.4g}"
    return "", ""


def stage_of(key: str) -> str:
    """The stage of an artifact's key: `sft` of `sft-2`, which is its second round."""
    return re.sub(r"-\d+$", "", key)


def line_figures(curves: Mapping[str, Sequence[Sequence[float]]], label: str) -> Iterator[Figure]:
    """One plot for the curves of all rounds of a stage; a curve of one point is told in words."""
    by_stage: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, points in curves.items():
        if points:
            by_stage.setdefault(stage_of(key), {})[key] = [(x, y) for x, y in points]
    for rounds in by_stage.values():
        drawn = {key: points for key, points in rounds.items() if len(points) > 1}
        single = [
            f"{key}: {points[0][1]:.4g} at step {points[0][0]:g}" for key, points in rounds.items() if key not in drawn
        ]
        title = next(iter(rounds)) if len(rounds) == 1 else f"{next(iter(rounds))} to {[*rounds][-1]}"
        chart = _drawn(line_chart(drawn, "step", label)) if drawn else None
        yield Figure(title, chart, "; ".join(single))


def _rollouts(curves: Mapping[str, Any]) -> Iterator[Figure]:
    """Everything that is known of sampled answers."""
    for name, label in CURVES.items():
        for figure in line_figures(curves[name], label):
            yield Figure(f"{label}: {figure.title}", figure.chart, figure.words)
    for key, histogram in curves["histograms"].items():
        yield _histogram(key, histogram)


def heat_figures(maps: Mapping[str, Mapping[str, Any]]) -> Iterator[Figure]:
    """One plot for each evaluation that asked at several lengths and depths."""
    for name, found in maps.items():
        shares = [share for row in found["shares"] for share in row if share is not None]
        right = sum(share == 1 for share in shares)
        chart = heat_chart(found["lengths"], found["depths"], found["shares"], "length, tokens", "depth")
        yield Figure(f"{name} ({right} of {len(shares)} right)", _drawn(chart))


def _histogram(key: str, histogram: Mapping[str, Any]) -> Figure:
    edges, counts, unknown = histogram["edges"], histogram["counts"], histogram["unknown"]
    title = f"rewards of {key}" + (f" ({unknown} answers without one)" if unknown else "")
    total = sum(sum(row) for row in counts.values())
    if not total:
        return Figure(title, words="No reward is known.")
    if len(edges) == 2:  # one bin: all values are the same
        return Figure(title, words=f"All {total:,} answers have the reward {(edges[0] + edges[1]) / 2:.4g}.")
    return Figure(title, _drawn(histogram_chart(edges, counts, "reward")))
