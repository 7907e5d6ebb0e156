"""The page of a herd: every size, every round, what each step added, and the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from llama3.evaluation.charts import change_chart
from llama3.evaluation.herd_figures import (
    DATA_HEAD,
    ROUND_HEAD,
    STEP_HEAD,
    data_rows,
    round_table,
    step_table,
)
from llama3.evaluation.page import Figure
from llama3.evaluation.templates import style, template
from llama3.evaluation.told_changes import unit_of


def render_herd(report: Mapping[str, Any]) -> str:
    """One file: styles inline, plots as SVG, no script. Each size has a page of its own beside it."""
    herd = report["herd"]
    tables = (
        ("Rounds", ROUND_HEAD, list(round_table(herd))),
        ("What each step added", STEP_HEAD, list(step_table(herd))),
        ("Data", DATA_HEAD, list(data_rows(herd))),
    )
    page = _template().render(
        style=style(), run=report["run"], sizes=herd["sizes"], pages=list(report["sizes"]), tables=tables,
        changes=list(_changes(herd)), failed=herd.get("failed", []),
    )  # fmt: skip
    return page.encode("utf-8", "replace").decode()


def _changes(herd: Mapping[str, Any]) -> Iterator[Figure]:
    """What the steps of each size added, suite by suite."""
    known = [row for row in herd["steps"] if row["change"] is not None]
    for size, suite, better in dict.fromkeys((row["size"], row["suite"], row["better"]) for row in known):
        drawn = {
            f"{row['round']} {row['step']}": (row["low"], row["change"], row["high"])
            for row in known
            if (row["size"], row["suite"]) == (size, suite)
        }
        yield Figure(f"{size}: {suite}", Markup(change_chart(drawn, unit_of(better))), "")


@cache
def _template() -> jinja2.Template:
    return template("llama3.evaluation", "herd.html.jinja")
