"""The page of a red team: its tables, and the coverage map, a cell for each category and style."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from llama3.evaluation.templates import style, template
from llama3.redteam.figures import UNKNOWN, red_team_tables


def render_red_team(report: Mapping[str, Any]) -> str:
    """One file: styles inline, no script, no link. `report` is the content of report.json."""
    styles = list(report["styles"])
    page = _template().render(
        report=report,
        style=style(),
        tables=[table for table in red_team_tables(report["figures"]) if table.rows],
        styles=styles,
        coverage=list(_coverage(report["figures"]["coverage"], styles)),
        cost=[(name.replace("_", " "), f"{value:,}") for name, value in report["cost_of_last_call"].items()],
    )
    return page.encode("utf-8", "replace").decode()  # surrogates without their other half, which a file cannot hold


def _coverage(cells: Sequence[Mapping[str, Any]], styles: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Of each category, for each style: what stands in its cell, and what is told of it."""
    known = {(cell["category"], cell["style"]): cell for cell in cells}
    for category in dict.fromkeys(cell["category"] for cell in cells):
        yield category, [_cell(known.get((category, style))) for style in styles]


def _cell(cell: Mapping[str, Any] | None) -> tuple[str, str]:
    if cell is None:
        return "", "not tried"
    counts = ", ".join(f"{cell[name]} {name}" for name in ("blocked", *UNKNOWN))
    told = f"nobody knows, {counts}"
    if cell["n"]:
        interval = f"{100 * cell['low']:.0f} to {100 * cell['high']:.0f} %"
        told = f"{100 * cell['rate']:.0f} % violated ({interval}), {counts}"
    return f"{cell['violates']}/{cell['n']}", told


@cache
def _template() -> jinja2.Template:
    return template("llama3.redteam", "redteam.html.jinja")
