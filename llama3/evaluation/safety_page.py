"""What pages show of suites of safety: all tables, the front, and the policy of each of its points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from markupsafe import Markup

from llama3.evaluation.charts import Offered, RatePoint, offer_chart, plane_chart
from llama3.evaluation.intervals import Rate
from llama3.evaluation.safety_tables import BARE, changes_tables, is_safety, model_label, safety_tables, shown


def safety_parts(results: Mapping[str, Mapping[str, Any]], model: str = "") -> Iterator[dict[str, Any]]:
    """Of each suite of safety what `safety.html.jinja` shows: {name, tables, plane, front, policies}."""
    for suite, row in results.items():
        if is_safety(row):
            name = f"{suite} of {model}" if model else suite
            yield {
                "name": name,
                "tables": list(safety_tables(row)),
                "plane": None,
                "front": _front(row),
                "policies": _policies(row),
            }


def changes_parts(changes: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same of each suite that several models of a run were asked (`safety_changes`); `plane` shows them by VR and
    FRR."""
    for suite, found in changes.items():
        yield {
            "name": f"{suite} before and after",
            "tables": list(changes_tables(found)),
            "plane": _plane(found),
            "front": None,
            "policies": [],
        }


def _plane(found: Mapping[str, Any]) -> Markup | None:
    points = {
        model: [
            RatePoint(_rate(rates["vr"]), _rate(rates["frr"]), model_label(model, system), system == BARE)
            for system, rates in by_name.items()
            if rates["vr"] and rates["frr"]
        ]
        for model, by_name in found["models"].items()
    }
    if not any(points.values()):
        return None
    return Markup(plane_chart(points, "violation rate", "false-refusal rate"))  # escapes


def _rate(found: Mapping[str, Any]) -> Rate:
    return Rate(found["rate"], found["low"], found["high"], found["n"])


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
    return [
        (
            f"{number}: VR {shown(point['vr'])}, FRR {shown(point['frr'])}",
            yaml.safe_dump({"safety": {"policy": point["policy"]}}, sort_keys=False),
        )
        for number, point in enumerate((row["pareto"] or {"points": []})["points"], 1)
    ]
