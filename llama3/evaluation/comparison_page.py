"""The page of a comparison (`llama3 compare`): every suite with its changes, and curves of training in one plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from llama3.evaluation.charts import change_chart, line_chart
from llama3.evaluation.comparison import TABLE_HEAD, comparison_rows
from llama3.evaluation.page import CURVES, Figure
from llama3.evaluation.templates import style, template
from llama3.evaluation.told_changes import unit_of

LOSS = "loss"


def render_comparison(found: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """One file: styles inline, plots as SVG, no script, no link. `curves`: those of the reports of runs, by run."""
    page = _template().render(
        style=style(),
        first=found["models"][0],
        head=TABLE_HEAD,
        rows=list(comparison_rows(found)),
        changes=list(_changes(found)),
        curves=list(_curves(curves)),
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


def _changes(found: Mapping[str, Any]) -> Iterator[Figure]:
    for label, suite in found["suites"].items():
        known = {name: row for name, row in suite["models"].items() if row["change"] is not None}
        drawn = {name: (row["paired_low"], row["change"], row["paired_high"]) for name, row in known.items()}
        if drawn:
            yield Figure(label, Markup(change_chart(drawn, unit_of(suite["better"]))), "")


def _curves(curves: Mapping[str, Mapping[str, Any]]) -> Iterator[Figure]:
    """What at least one run has a curve of, stage by stage, all runs in one plot."""
    for metric, words in {LOSS: LOSS, **CURVES}.items():
        of_runs = {run: told.get(metric) or {} for run, told in curves.items()}
        for key in dict.fromkeys(key for told in of_runs.values() for key in told):
            drawn = {run: [(x, y) for x, y in told[key]] for run, told in of_runs.items() if len(told.get(key, ())) > 1}
            if drawn:
                yield Figure(f"{words}: {key}", Markup(line_chart(drawn, "step", words)), "")


@cache
def _template() -> jinja2.Template:
    return template("llama3.evaluation", "comparison.html.jinja")
