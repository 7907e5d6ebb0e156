"""What an evaluator gave, looked at where it is taken: what no report can hold is told as the evaluator's fault, and
items of which no two models can be compared are told of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from llama3.errors import PluginError
from llama3.evaluation.evaluator import Better, Result

ODD_RESULT = PluginError.declare(
    "L3-EVL-032",
    "returned {what}",
    why="what suite {suite} measured cannot be kept",
    fix="mend the plugin: run returns llama3.evaluators.Result(metrics, samples), JSON values by name and a dict for "
    "each item; the same command measures it again",
)


def require_result(evaluator: str, suite: str, found: object) -> None:
    """Raises PluginError, which names both, where `found` is no Result of JSON values and finite numbers, or has a
    figure of which reports expect another kind."""
    if what := _fault(found):
        raise ODD_RESULT(f"evaluators.{evaluator}", what=what, suite=suite)


def _fault(found: object) -> str:
    if not isinstance(found, Result):
        return "nothing" if found is None else f"a {type(found).__name__} in place of a Result"
    metrics, samples, ways = found.metrics, found.samples, get_args(Better)
    if not isinstance(metrics, Mapping):
        return f"metrics that are a {type(metrics).__name__}"
    if not isinstance(samples, list | tuple):
        return f"samples that are a {type(samples).__name__}"
    if odd := [type(row).__name__ for row in samples if not isinstance(row, Mapping)]:
        return f"a sample of type {odd[0]}"
    if found.better not in ways or found.rate_better not in (None, *ways):
        return f"better {found.better!r} and rate_better {found.rate_better!r}, of which each is {' or '.join(ways)}"
    if isinstance(metrics.get("bits_per_byte"), Mapping):
        return "the figure bits_per_byte as a mapping, where reports expect a number"
    try:
        json.dumps([metrics, samples], allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"what JSON cannot hold: {error}"
    return ""


def unpaired(samples: Sequence[Mapping[str, Any]]) -> str:
    """Why an audit cannot compare the items of two models; "" where it can."""
    if not samples:
        return "it returned no items"
    ids = [str(row["id"]) for row in samples if row.get("id") is not None]
    counts = {
        "no id": len(samples) - len(ids),
        "the id of another": len(ids) - len(set(ids)),
        "no number as score": sum(not isinstance(row.get("score"), int | float) for row in samples),
    }
    return ", ".join(f"{count} of {len(samples)} items have {what}" for what, count in counts.items() if count)
