"""The page of an evaluation (`llama3 evaluate`): every suite, and of suites of safety all tables and the front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from llama3.evaluation.charts import Offered, offer_chart
from llama3.evaluation.page import headline
from llama3.evaluation.safety_tables import is_safety, safety_tables, shown
from llama3.evaluation.templates import style, template


def render_evaluation(model: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """One file: styles inline, plots as SVG, no script, no link."""
    page = _template().render(
        model=model,
        style=style(),
        suites=list(suite_rows(results)),
        safety=[
            {"suite": suite, "tables": list(safety_tables(row)), "front": _front(row), "policies": _policies(row)}
            for suite, row in results.items()
            if is_safety(row)
        ],
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


def suite_rows(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(suite, what is told of it, its figure): of suites of safety three."""
    for suite, row in results.items():
        if is_safety(row):
            yield from ((suite, name, shown(row[name])) for name in ("vr", "frr", "helpful"))
        else:
            name, figure = headline(row)
            yield suite, name, figure if isinstance(figure, str) else _told(figure)


def _told(rate: Mapping[str, Any]) -> str:
    return shown(rate) if {"low", "high", "n"} <= rate.keys() else f"{100 * rate['rate']:.1f} %"


def _front(row: Mapping[str, Any]) -> Markup | None:
    pareto = row["pareto"]
    if not pareto:
        return None
    offers = [
        Offered(
            100 * point["vr"]["rate"], 100 * point["frr"]["rate"], f"setting {number}", number == pareto["knee"] + 1
        )
        for number, point in enumerate(pareto["points"], 1)
    ]
    return Markup(offer_chart({"not beaten": offers}, "violation rate, %", "false-refusal rate, %"))  # escapes


def _policies(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each setting of the front its rates and its policy as a config writes it."""
    import yaml

    return [
        (
            f"{number}: VR {shown(point['vr'])}, FRR {shown(point['frr'])}",
            yaml.safe_dump({"safety": {"policy": point["policy"]}}, sort_keys=False),
        )
        for number, point in enumerate((row["pareto"] or {"points": []})["points"], 1)
    ]


@cache
def _template() -> jinja2.Template:
    return template("llama3.evaluation", "evaluation.html.jinja")
