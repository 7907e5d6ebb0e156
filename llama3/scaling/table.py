"""A forecast in words and rows, as the command line and the page show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BUDGETS_HEAD = ("FLOPS", "RUNS", "TOKENS", "INTERVAL", "PARAMETERS", "LOSS", "CURVATURE", "")
LEFT_OUT_HEAD = ("FIGURE", "FORECAST", "INTERVAL", "MEASURED", "ERROR", "INSIDE")
NAMES = {
    "tokens": "tokens",
    "parameters": "parameters",
    "loss": "loss, bits per byte",
    "nll": "NLL per character",
    "accuracy": "accuracy",
}


def budget_rows(fits: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row per budget: where its curve is lowest, or why that is not claimed."""
    for row in fits["budgets"]:
        best = row["optimum"] or {}
        cells = [figure(best.get(name)) for name in ("tokens", "parameters", "loss")]
        yield (
            f"{row['flops']:.3g}",
            str(row["runs"]),
            cells[0],
            ends(row["interval"]),
            cells[1],
            cells[2],
            f"{row['curvature']:.3g}",
            row["words"],
        )


def law_rows(fits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The laws, and the forecast of the target."""
    law, loss, benchmark = fits["tokens_law"], fits["loss_law"], fits["benchmark"]
    if law is None:
        yield "tokens", "no law: fewer than two budgets have a measured optimum"
    else:
        exponent = f"{law['exponent']:.3f} {ends(law['interval'])}"
        yield "tokens", _and(f"{law['factor']:.3g} x FLOPs^{exponent}", law["words"])
    if loss is not None:
        terms = f"{loss['floor']:.3g} + {loss['A']:.3g} / N^{loss['a']:.3g} + {loss['B']:.3g} / D^{loss['b']:.3g}"
        by = f"{terms}; by it tokens grow as FLOPs^{loss['token_exponent']:.3f} {ends(loss['interval'])}"
        yield "loss", _and(by, loss["words"])
    if benchmark["sigmoid"] is not None:
        sigmoid = benchmark["sigmoid"]
        by = f"half-way from {percent(sigmoid['chance'])} to 100 % at {sigmoid['middle']:.3g} nats per character"
        yield "benchmark", f"{by}; measured accuracies lie {100 * benchmark['scatter']:.1f} points around"
    else:
        yield "benchmark", benchmark["words"]
    told = fits["forecast"]
    for name, label in NAMES.items():
        found = told[name]
        if found["value"] is not None:
            show = percent if name == "accuracy" else figure
            text = f"{show(found['value'])} {ends(found['interval'], show)}".strip()
            yield f"{label} at {told['flops']:.3g}", _and(text, found["words"])


def left_out_rows(fits: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """What the smaller budgets said of the largest, beside what was measured."""
    for name, row in fits["left_out"]["figures"].items() if fits["left_out"] else ():
        show = percent if name == "accuracy" else figure
        error = "" if row["error"] is None else f"{100 * row['error']:+.1f} %"
        inside = {True: "yes", False: "no", None: ""}[row["inside"]]
        yield NAMES[name], show(row["forecast"]), ends(row["interval"], show), show(row["measured"]), error, inside


def left_out_words(fits: Mapping[str, Any]) -> str:
    """What was left out, and how good a mere line would have been."""
    found = fits["left_out"]
    if found is None:
        return "the largest budget was not left out: its optimum, or those of two others, were not measured"
    line = found["accuracy_by_line"]
    told = f"a line through accuracies would have been off by {100 * line['error']:+.1f} %"
    return f"leaving out {found['flops']:.3g} FLOPs, {found['times']:.3g} times the next budget ({told}):"


def lifetime_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The compute-optimal model of a budget beside the one that is cheapest over its life."""
    for name, label in (("compute_optimal", "compute-optimal"), ("cheapest", "cheapest over its life")):
        row = found[name]
        figures = ("parameters", "tokens", "tokens_per_parameter", "training_flops", "serving_flops")
        yield (label, *(figure(row[key]) for key in figures), figure(row["cost"]))


LIFETIME_HEAD = ("MODEL", "PARAMETERS", "TOKENS", "TOKENS/PARAMETER", "TRAINING FLOPS", "SERVING FLOPS", "COST")


def figure(value: float | None) -> str:
    """Three digits, with K, M, B or T from a thousand on."""
    if value is None:
        return "-"
    for unit, one in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if one <= abs(value) < 1e15:
            return f"{value / one:.3g}{unit}"
    return f"{value:.3g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def ends(found: Any, show: Any = figure) -> str:
    """`[low, high]`."""
    return "" if found is None else f"[{show(found[0])}, {show(found[1])}]"


def _and(text: str, words: str) -> str:
    return f"{text}; {words}" if words else text
