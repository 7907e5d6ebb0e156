"""The figures of the suite `safety` as tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES = {"vr": "VR", "frr": "FRR", "helpful": "helpful"}
SYSTEMS_NOTE = (
    "VR: adversarial prompts whose answer violates. FRR: borderline prompts that are refused. 95 % intervals; "
    "changes against no guards are of the same prompts, in points, with what they are of the rate before."
)
WITHOUT_ROOM = "without room in the model's context"
"""What is said of prompts that are too long for a model: they count against it."""
BARE = "none"
"""The system without guards."""
ROUGH = 30
"""Rows below which a rate says little: they are marked."""
FEW_PROMPTS = 1000
"""Adversarial prompts below which a card says that they are few; the paper asks over 4,000 in each language."""


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
    yield systems_table(metrics)
    if (corrected := corrected_table(metrics)) is not None:
        yield corrected
    yield from parts_tables(metrics)
    if any(metrics["languages"].values()):
        systems = list(dict.fromkeys(name for row in metrics["languages"].values() for name in row))
        rows = [(lang, *(_relative(row.get(name)) for name in systems)) for lang, row in metrics["languages"].items()]
        yield TableOf("VR/FRR against no guards", ("language", *systems), rows, "In %, as in the paper's table 25.")
    if metrics["pareto"]:
        yield _front(metrics["pareto"])
    yield judges_table(metrics)
    if "prompts" in metrics:  # evaluations that are older do not tell it
        yield prompts_table(metrics)


def systems_table(metrics: Mapping[str, Any]) -> TableOf:
    """The model with and without each guard."""
    rows = [
        (name, *(shown(rates[key]) for key in NAMES), *changed(metrics["changes"].get(name)))
        for name, rates in metrics["systems"].items()
    ]
    return TableOf("Systems", ("system", *NAMES.values(), "change of VR", "change of FRR"), rows, SYSTEMS_NOTE)


def corrected_table(metrics: Mapping[str, Any]) -> TableOf | None:
    """The rates and changes corrected by the judges' cards; none where no judge has one."""
    rows = [
        (
            name,
            *(shown((rates[key] or {}).get("corrected")) for key in NAMES),
            *(_change(((metrics["changes"].get(name) or {}).get(key) or {}).get("corrected")) for key in ("vr", "frr")),
        )
        for name, rates in metrics["systems"].items()
    ]
    measured = any(cell != "-" for row in rows for cell in row[1:])
    head = ("system", *NAMES.values(), "change of VR", "change of FRR")
    return TableOf("Corrected by the judges' cards", head, rows) if measured else None


def parts_tables(metrics: Mapping[str, Any]) -> Iterator[TableOf]:
    """The rates by category and by language, behind the whole policy and, where that has guards, of the bare model."""
    bare = metrics.get("without_guards") if metrics.get("guards") else None
    note = "There are no guards." if metrics.get("guards") == [] else "Of the whole policy."
    for title, key in (("By category", "by_category"), ("By language", "by_language")):
        head = [key.removeprefix("by_"), *NAMES.values()]
        rows = [[name, *(shown(rates[key]) for key in NAMES)] for name, rates in metrics[key].items()]
        if bare is not None:
            head += [f"{name} without guards" for name in NAMES.values()]
            rows = [[*row, *(shown(bare[key][row[0]][name]) for name in NAMES)] for row in rows]
        yield TableOf(title, tuple(head), [tuple(row) for row in rows], note)


def judges_table(metrics: Mapping[str, Any]) -> TableOf:
    """Who judged, and how often people found each judge wrong."""
    rows = [_judge(event, told) for event, told in metrics["judges"].items()]
    return TableOf("Judges", ("event", "judge", "threshold", "sensitivity", "specificity", "kappa"), rows)


def prompts_table(metrics: Mapping[str, Any]) -> TableOf:
    """Where the prompts are from, and what they try to get around a refusal."""
    told = metrics["prompts"]
    rows = [(f"from {name}", str(count)) for name, count in told["sources"].items()]
    rows += [(f"attack: {name}", str(count)) for name, count in told["attacks"].items()]
    if left := metrics.get("without_room"):
        rows.append((f"{WITHOUT_ROOM}: not answered, not judged", str(left)))
    return TableOf("Prompts", ("prompts", "rows"), rows)


def changes_tables(found: Mapping[str, Any]) -> Iterator[TableOf]:
    """The models of a run side by side (`safety_changes`)."""
    systems = {
        (model, system): rates for model, by_name in found["models"].items() for system, rates in by_name.items()
    }
    rows = [
        (model_label(*key), *(shown(rates[name]) for name in NAMES), *changed(found["changes"][key[0]].get(key[1])))
        for key, rates in systems.items()
    ]
    note = f"Changes are against {found['against']} without guards, on the same prompts."
    yield TableOf("Models", ("model", *NAMES.values(), "change of VR", "change of FRR"), rows, note)
    for part in ("category", "language"):
        for name in ("vr", "frr"):
            cells = [
                (one, *(shown(by_model[model][system][name]) for model, system in systems))
                for one, by_model in found[f"by_{part}"].items()
            ]
            yield TableOf(f"{NAMES[name]} by {part}", (part, *(model_label(*key) for key in systems)), cells)


def model_label(model: str, system: str) -> str:
    """A model, as it is or behind the whole policy."""
    return model if system == BARE else f"{model}, guarded"


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


def changed(changes: Mapping[str, Any] | None) -> tuple[str, str]:
    """The changes of VR and of FRR, nothing where there is nothing to compare."""
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
