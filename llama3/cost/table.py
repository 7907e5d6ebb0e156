"""A report of costs as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llama3.cost.gpus import HERE
from llama3.model.needs import size

UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def device_lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The model, what each device offers, and the bytes of each format."""
    model = report["model"]
    lines = [("model", f"{model['name']}, {model['parameters']:,} parameters, context {model['max_seq_len']:,}")]
    asked = next(iter(report["gpus"]))
    for name, gpu in report["gpus"].items():
        rates = ", ".join(f"{kind} {_scaled(rate)}FLOP/s" for kind, rate in gpu["flops"].items())
        count = f"{gpu['count']} x " if gpu["count"] > 1 else ""
        memory = f"{count}{size(int(gpu['memory']))}, {_scaled(gpu['bandwidth'])}B/s"
        told = f"{memory}, {rates}, {1e6 * gpu['launch']:.3g} us a launch"
        if name == asked and report["price"] is not None:
            told += f", {report['price']:.4g} an hour" + (" each" if gpu["count"] > 1 else "")
        lines.append((name, f"{told} (measured)" if name == HERE else told))
    for name, taken in report["formats"].items():
        lines.append((name, f"{size(taken['resident'])} of weights, {size(taken['cache'])} of cache a token"))
    return lines


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the points on the device that was asked for: the first one."""
    asked = next(iter(report["gpus"]))
    rows = [row for row in report["rows"] if row["gpu"] == asked]
    is_here, has_price = asked == HERE, report["price"] is not None
    has_layouts = any(row["pp"] > 1 for row in rows)
    head = [*(["TP x PP", "MICRO-BATCHES"] if has_layouts else []), "QUANTIZATION", "BATCH", "CONTEXT"]
    head += ["MEASURED TOKENS/S", "PREDICTED", "ERROR"] if is_here else ["PREDICTED TOKENS/S"]
    head += ["MS/TOKEN", "PROMPT S", "MEMORY", "MAX BATCH"]
    head += ["OUTPUT/M", "INPUT/M"] if has_price else []
    return [*head, "PARETO"], [
        [*(_layout(row) if has_layouts else []), *_cells(row, is_here, has_price), _mark(row)] for row in rows
    ]


def _layout(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['tp']} x {row['pp']}", f"{row['microbatches']}"]


def _cells(row: Mapping[str, Any], is_here: bool, has_price: bool) -> Iterator[str]:
    yield from (row["quantization"], f"{row['batch']:,}", f"{row['context']:,}")
    predicted, measured = row["predicted"], row["measured"]
    if is_here:
        yield _rate(measured)
    yield _rate(predicted)
    if is_here:
        yield f"{predicted['tokens_per_second'] / measured['tokens_per_second'] - 1:+.0%}" if measured else "-"
    yield _number(1000 * row["seconds_per_token"]) if row["fits"] else "-"
    yield _prompt(row)
    yield size(int(row["memory"]["weights"] + row["memory"]["cache"]))
    yield f"{row['max_batch']:,}"
    if has_price:
        prices = row["price_per_million"] or {}
        yield from (_number(prices[kind]) if prices else "-" for kind in ("output", "input"))


def _prompt(row: Mapping[str, Any]) -> str:
    if not row["fits"]:
        return "-"
    is_measured = row["measured"] is not None and row["measured"]["prompt_seconds"] is not None
    return _number(row["prompt_seconds"]) + ("" if is_measured or row["gpu"] != HERE else " predicted")


def _mark(row: Mapping[str, Any]) -> str:
    marked = {True: "front", False: "dominated", None: ""}[row["on_front"]]
    return "; ".join(part for part in (marked, row["note"]) if part)


def _rate(figures: Mapping[str, Any] | None) -> str:
    return _number(figures["tokens_per_second"]) if figures else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def error_lines(error: Mapping[str, Any]) -> Iterator[str]:
    """How far the prediction was off on this machine."""
    if error["steps"] is None:
        yield "error of the prediction: not known, nothing was measured on this machine"
        return
    yield f"error of predicted tokens/s on this machine: {_summary(error['steps'])}"
    if len(error["steps_by_quantization"]) > 1:
        for name, found in error["steps_by_quantization"].items():
            yield f"  {name}: {_summary(found)}"
    if error["prompts"] is not None:
        yield f"error of predicted prompt tokens/s on this machine: {_summary(error['prompts'])}"


def _summary(found: Mapping[str, Any]) -> str:
    return (
        f"median {found['median']:.0%}, largest {found['max']:.0%}, mean {found['mean']:+.0%}, points {found['points']}"
    )


def _scaled(value: float) -> str:
    factor, unit = next((row for row in UNITS if value >= row[0]), (1.0, ""))
    return f"{value / factor:.3g} {unit}"
