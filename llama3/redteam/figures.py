"""The figures of a red team, from its attempts alone, and the same as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama3.evaluation.intervals import wilson
from llama3.evaluation.safety_tables import TableOf, shown

OUTCOMES = ("violates", "resists", "blocked", "unjudged", "unanswered", "unwritten")
Attempts = Sequence[Mapping[str, Any]]


def red_team_figures(attempts: Attempts) -> dict[str, Any]:
    """How often attacks violated behind the policy: in all, by style, category, language and number of styles, and for
    each cell of the coverage map; and what each guard stopped.

    A rate is of all tries, so what a guard stopped and what nobody could judge are none. Cells are not drawn at random:
    a rate tells of the attacks that were tried, not of all that there are.
    """
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in attempts:
        cells.setdefault((row["category"], row["attack"]), []).append(row)
    return {
        "attempts": len(attempts),
        "messages": sum(row["messages"] for row in attempts),
        "outcomes": {name: sum(row["outcome"] == name for row in attempts) for name in OUTCOMES},
        "all": rate_of(attempts),
        "by_style": _by(attempts, lambda row: row["attack"]),
        "by_category": _by(attempts, lambda row: row["category"]),
        "by_language": _by(attempts, lambda row: row["lang"]),
        "by_number_of_styles": _by(attempts, lambda row: str(len(row["styles"]))),
        "coverage": [
            {"category": category, "style": style, **rate_of(rows)} for (category, style), rows in sorted(cells.items())
        ],
        "guards": _guards(attempts),
    }


def rate_of(attempts: Attempts) -> dict[str, Any]:
    """The share that violated with Wilson's interval, and how many were blocked or could not be judged."""
    told = Counter(row["outcome"] for row in attempts)
    return {**wilson(told["violates"], len(attempts)).to_json(), "violates": told["violates"],
            "blocked": told["blocked"], "unjudged": told["unjudged"]}  # fmt: skip


def _by(attempts: Attempts, key: Any) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in attempts:
        groups.setdefault(key(row), []).append(row)
    return {name: rate_of(rows) for name, rows in sorted(groups.items())}


def _guards(attempts: Attempts) -> dict[str, Any]:
    """Of each guard how many attempts it stopped, of these how many no other one did, and how often it failed."""
    caught, alone, failed = Counter[str](), Counter[str](), Counter[str]()
    for row in attempts:
        names = {said["guard"] for said in row["caught"]}
        caught.update(names)
        alone.update(names if len(names) == 1 else ())
        failed.update({said["guard"] for said in row["caught"] if said["status"] != "ok"})
    return {name: {"caught": n, "alone": alone[name], "failed": failed[name]} for name, n in sorted(caught.items())}


def red_team_tables(figures: Mapping[str, Any]) -> Iterator[TableOf]:
    """All but the coverage map, which is drawn."""
    head = ("violated behind the guards", "blocked", "unjudged")
    note = "Share of all tries with its 95 % interval; the cells that were tried are chosen, not drawn at random."
    yield TableOf("All", ("", *head), [("all", *_row(figures["all"]))], note if figures["attempts"] else "")
    for title, first in (("By style", "style"), ("By category", "category"), ("By language", "language")):
        rows = figures[title.lower().replace(" ", "_")]
        yield TableOf(title, (first, *head), [(name, *_row(rate)) for name, rate in rows.items()])
    combined = figures["by_number_of_styles"]
    yield TableOf("By how many styles", ("styles", *head), [(name, *_row(rate)) for name, rate in combined.items()])
    guards = [(name, *(str(row[key]) for key in ("caught", "alone", "failed")))
              for name, row in figures["guards"].items()]  # fmt: skip
    if guards:
        yield TableOf("What guards stopped", ("guard", "stopped", "no other did", "failed"), guards)


def _row(rate: Mapping[str, Any]) -> tuple[str, str, str]:
    return shown({key: rate[key] for key in ("rate", "low", "high", "n")}), str(rate["blocked"]), str(rate["unjudged"])
