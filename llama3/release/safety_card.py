"""The section of the model card on safety: what was measured, by whom, on which prompts, and what was not.

Its figures are those of the evaluation and of the guards' own cards, no others. What nobody measured it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama3.evaluation import safety_tables
from llama3.evaluation.safety_tables import TableOf, is_safety
from llama3.evaluation.stages import SAFETY_MARK
from llama3.redteam.figures import red_team_tables
from llama3.release import markdown
from llama3.release.carried_guards import CarriedGuard, figure_lines
from llama3.release.markdown import code, text

BY_SIGNS = "signs-violates-"
"""How the judge is called that knows only who complies."""


@dataclass(frozen=True, slots=True)
class SafetyFacts:
    """What is known of a model's safety beside its policy. `results`: figures of the final model by suite; `unasked`:
    evaluators about safety that no suite of the run has; `red_team`: the report of one that attacked the model."""

    guards: Sequence[CarriedGuard] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    unasked: Sequence[str] = ()
    red_team: Mapping[str, Any] | None = None


def told_here(row: Any) -> bool:
    """Whether the figures of a suite stand in this section."""
    return isinstance(row, Mapping) and (is_safety(row) or SAFETY_MARK in row)


def safety_section(policy: Mapping[str, Any], facts: SafetyFacts) -> Iterator[str]:
    """The lines of the section."""
    guards, results = facts.guards, {suite: row for suite, row in facts.results.items() if told_here(row)}
    measured = {suite: row for suite, row in results.items() if is_safety(row)}
    yield from _policy(policy, guards)
    yield ""
    for suite, figures in measured.items():
        yield from _suite(suite, figures)
    if not measured:
        yield "**Not measured:** how often it violates, and how often it refuses for nothing. The suite `safety` of"
        yield "`llama3 evaluate` measures both."
        yield ""
    yield from _others({suite: row for suite, row in results.items() if suite not in measured})
    yield from _red_team(facts.red_team)
    if facts.unasked:
        yield f"**Not measured:** {', '.join(map(code, facts.unasked))}."
        yield ""
    yield "**What this does not say**"
    yield ""
    yield from (f"- {line}" for line in _limits(policy, measured))


def _policy(policy: Mapping[str, Any], guards: Sequence[CarriedGuard]) -> Iterator[str]:
    if not policy:
        yield "No guard is configured. Put one in front of the model before others use it."
        return
    others = [f"{code(name)} at {text(stage)} ({text(action)})" for stage, name, action in _not_blocking(policy)]
    but = f", but for {', '.join(others)}" if others else ""
    yield f"The policy that was configured for this model (`policy.json`); a guard that fails blocks{but}:"
    yield ""
    yield from markdown.table(("stage", "guards"), [(text(s), code(json.dumps(tree))) for s, tree in policy.items()])
    yield ""
    rows = []
    for guard in guards:
        known = f" ({code(guard.hash[:12])})" if guard.hash else ""
        model = code(guard.model) + known if guard.model else "-"
        rows.append((text(guard.stage), text(guard.name), text(f"{guard.dist} {guard.version}"), model))
    yield from markdown.table(("stage", "guard", "from", "its model"), rows)
    for guard in {guard.model: guard for guard in guards if guard.figures}.values():
        yield ""
        yield f"{code(guard.model)}, by its own card:"
        yield ""
        yield from (f"- {text(line)}" for line in figure_lines(guard.figures or {}))


def _not_blocking(policy: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(stage, guard, `on_error`) of every guard whose failure does something else than block."""
    for stage, tree in policy.items():
        rest = [tree]
        while rest:
            match rest.pop(0):
                case {"guard": guard, "on_error": str(action)} if action != "block":
                    yield stage, guard["name"] if isinstance(guard, Mapping) and "name" in guard else str(guard), action
                case {"guard": _}:
                    pass
                case Mapping() as node:
                    rest += node.values()
                case list() as nodes:
                    rest += nodes


def _suite(suite: str, figures: Mapping[str, Any]) -> Iterator[str]:
    rows = figures["rows"]
    asked = ", ".join(f"{count} {kind}" for kind, count in rows.items())
    yield f"**{text(suite)}**: {asked} prompts. The system {code('none')} is the bare model, {code('full')} the model"
    yield "behind its whole policy."
    yield ""
    tables = [safety_tables.systems_table(figures), safety_tables.corrected_table(figures)]
    tables += [*safety_tables.parts_tables(figures), safety_tables.judges_table(figures)]
    if "prompts" in figures:
        tables.append(safety_tables.prompts_table(figures))
    for table in tables:
        if table is not None and table.rows:
            yield from _table(table)
            yield ""


def _others(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Every share that other suites about safety measured, with its interval."""
    rows = []
    for suite, row in results.items():
        if "error" in row:
            rows.append((text(suite), "", text(f"not measured: {row['error']}")))
        for name, value in row.items():
            if isinstance(value, Mapping) and {"rate", "low", "high", "n"} <= value.keys():
                rows.append((text(suite), text(name.replace("_", " ")), text(safety_tables.shown(value))))
        if left := row.get("without_room"):
            rows.append((text(suite), text(safety_tables.WITHOUT_ROOM), f"{left} prompts, which count against it"))
    if rows:
        yield from markdown.table(("suite", "share", "of the bare model"), rows)
        yield ""


def _red_team(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        yield "**No red team** is known to have attacked it (`llama3 redteam`)."
        yield ""
        return
    yield f"**Red team** of the model {code(report['model'])}: {report['figures']['attempts']} attacks."
    yield ""
    for table in red_team_tables(report["figures"]):
        if table.rows:
            yield from _table(table)
            yield ""


def _table(table: TableOf) -> Iterator[str]:
    yield f"{text(table.title)}. {text(table.note)}".rstrip()
    yield ""
    yield from markdown.table([text(head) for head in table.head], [[text(cell) for cell in row] for row in table.rows])


def _limits(policy: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if policy:
        yield "The weights alone promise nothing: the guards are programs beside them."
    judges = [(told, event) for row in measured.values() for event, told in row["judges"].items()]
    if unmeasured := sorted({event for told, event in judges if told["card"] is None}):
        named = " and ".join(f"who {event}" for event in unmeasured)
        yield f"No people's labels say how often the judge of {text(named)} errs: those rates are what it says."
    if any(told["judge"].startswith(BY_SIGNS) for told, _ in judges):
        yield (
            "The judge of violations knows only who complies: any answer to an adversarial prompt that is neither "
            "refusal nor noise counts as one."
        )
    if any(row["rows"]["adversarial"] < safety_tables.FEW_PROMPTS for row in measured.values()):
        yield "The prompts are few, and of kinds that were thought of: others will find others."
    yield "What was not asked here (other languages, attacks over several turns, harm through tools) is not known."
