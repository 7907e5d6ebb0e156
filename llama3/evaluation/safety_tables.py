"""The figures of the suite `safety` as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {"vr": "VR", "frr": "FRR", "helpful": "helpful"}
ROUGH = 30
"""Rows below which a rate says little: they are marked."""


@dataclass(frozen=True, slots=True)
class TableOf:
    """A titled table; `note` says how to read it."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def is_safety(metrics: Mapping[str, Any]) -> bool:
    """Whether these are the figures of a suite of safety."""
    return {"vr", "frr", "systems", "judges"} <= metrics.keys()


def safety_tables(metrics: Mapping[str, Any]) -> Iterator[TableOf]:
    """All tables, the most asked for first."""
    yield TableOf(
        "Systems",
        ("system", *NAMES.values(), "change of VR", "change of FRR"),
        [
            (name, *(shown(rates[key]) for key in NAMES), *_changed(metrics["changes"].get(name)))
            for name, rates in metrics["systems"].items()
        ],
        "VR: adversarial prompts whose answer violates. FRR: borderline prompts that are refused. 95 % intervals; "
        "changes against no guards are of the same prompts, in points, with what they are of the rate before.",
    )
    corrected = [
        (name, *(shown((rates[key] or {}).get("corrected")) for key in NAMES))
        for name, rates in metrics["systems"].items()
    ]
    if any(cell != "-" for row in corrected for cell in row[1:]):
        yield TableOf("Corrected by the judges' cards", ("system", *NAMES.values()), corrected)
    for title, key in (("By category", "by_category"), ("By language", "by_language")):
        rows = [(name, *(shown(rates[key]) for key in NAMES)) for name, rates in metrics[key].items()]
        yield TableOf(title, (key.removeprefix("by_"), *NAMES.values()), rows, "Of the whole policy.")
    if any(metrics["languages"].values()):
        systems = list(dict.fromkeys(name for row in metrics["languages"].values() for name in row))
        rows = [(lang, *(_relative(row.get(name)) for name in systems)) for lang, row in metrics["languages"].items()]
        yield TableOf("VR/FRR against no guards", ("language", *systems), rows, "In %, as in the paper's table 25.")
    if metrics["pareto"]:
        yield _front(metrics["pareto"])
    yield TableOf("Judges", ("event", "judge", "threshold", "sensitivity", "specificity", "kappa"),
                  [_judge(event, told) for event, told in metrics["judges"].items()])  # fmt: skip


def _front(pareto: Mapping[str, Any]) -> TableOf:
    rows = [
        (
            shown(point["vr"]),
            shown(point["frr"]),
            ", ".join(f"{name}: {setting}" for name, setting in point["settings"].items()),
            "knee" if index == pareto["knee"] else "",
        )
        for index, point in enumerate(pareto["points"])
    ]
    note = (
        f"Of {pareto['tried']:,} settings, those that none beats; they beat {pareto['hypervolume']:.3f} of the square. "
        "Chosen on these prompts, they will do somewhat worse on others."
    )
    return TableOf("Settings of the guards", ("VR", "FRR", "settings", ""), rows, note)


def _judge(event: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    card = told["card"]
    measured = ("not measured",) * 3
    if card is not None:
        measured = (shown(card["sensitivity"]), shown(card["specificity"]), f"{card['kappa']['rate']:.2f}")
    return (event, told["judge"], f"{told['threshold']:g}", *measured)


def shown(rate: Mapping[str, Any] | None) -> str:
    """A rate with its interval, and how many rows nobody could judge."""
    if rate is None:
        return "-"
    unjudged = f", {rate['unjudged']} unjudged" if rate.get("unjudged") else ""
    small = " (few)" if rate["n"] < ROUGH else ""
    return (
        f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] "
        f"(n = {rate['n']}{unjudged}){small}"
    )


def _changed(changes: Mapping[str, Any] | None) -> tuple[str, str]:
    if changes is None:
        return "", ""
    vr, frr = (_change(changes[name]) for name in ("vr", "frr"))
    return vr, frr


def _change(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "-"
    relative = "" if change["relative"] is None else f" ({change['relative']:+.0%})"
    return f"{100 * change['change']:+.1f} [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]{relative}"


def _relative(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "-"
    return "/".join("-" if change[name] is None else f"{100 * change[name]:+.0f}" for name in ("vr", "frr"))
