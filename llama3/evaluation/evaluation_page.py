"""The page of an evaluation (`llama3 evaluate`): every suite, and of suites of safety all tables and the front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import jinja2

from llama3.evaluation.page import headline
from llama3.evaluation.safety_page import safety_parts
from llama3.evaluation.safety_tables import WITHOUT_ROOM, is_safety, shown
from llama3.evaluation.templates import style, template


def render_evaluation(model: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """One file: styles inline, plots as SVG, no script, no link."""
    page = _template().render(
        model=model,
        style=style(),
        suites=list(suite_rows(results)),
        safety=list(safety_parts(results)),
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


def suite_rows(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(suite, what is told of it, its figure): of suites of safety three, and how many prompts were too long."""
    for suite, row in results.items():
        if is_safety(row):
            yield from ((suite, name, shown(row[name])) for name in ("vr", "frr", "helpful"))
        else:
            name, figure = headline(row)
            yield suite, name, figure if isinstance(figure, str) else _told(figure)
        if left := row.get("without_room"):
            yield suite, WITHOUT_ROOM, f"{left} prompts, which count against the model"


def _told(rate: Mapping[str, Any]) -> str:
    return shown(rate) if {"low", "high", "n"} <= rate.keys() else f"{100 * rate['rate']:.1f} %"


@cache
def _template() -> jinja2.Template:
    return template("llama3.evaluation", "evaluation.html.jinja")
