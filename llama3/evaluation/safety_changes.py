"""What a run made of VR, FRR and helpfulness: each of its models, bare and behind the policy, on the same prompts.

All from stored samples: nothing is asked again. Changes are against the first model without guards, prompt by prompt.
Legend: N rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llama3.artifacts import Artifact
from llama3.evaluation.guard_scores import GuardScores
from llama3.evaluation.rates import JudgeErrors, Outcomes
from llama3.evaluation.safety_figures import FULL, NONE, SafetyData, System, changes_of, rates_by, rates_of
from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.evaluation.safety_tables import is_safety
from llama3.safety.policy import Policy

Samples = Mapping[str, Mapping[str, Any]]
"""The rows of one suite and model, by their ids."""


def safety_changes(evaluations: Mapping[str, Artifact]) -> dict[str, Any]:
    """By suite of safety that two models or more were asked {against, models, changes, by_category, by_language}:
    of each model its rates without guards (`none`) and behind the whole policy (`full`), and what differs from the
    first model without guards. Prompts that not all of them were asked are left out."""
    found = {}
    for suite in dict.fromkeys(name for made in evaluations.values() for name in made.metrics):
        measured = {
            model: figures
            for model, made in evaluations.items()
            if (figures := made.metrics.get(suite)) is not None and is_safety(figures)
        }
        if len(measured) > 1:
            rows = {model: _samples(evaluations[model], suite) for model in measured}
            found[suite] = _of_suite(measured, rows, _seed(evaluations[next(iter(measured))]))
    return found


def _samples(made: Artifact, suite: str) -> Samples:
    with made.file("samples.jsonl").open(encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file) if row["suite"] == suite}


def _seed(made: Artifact) -> int:
    """That of the evaluation: its intervals are drawn again."""
    return int(json.loads(made.file("conditions.json").read_text("utf-8"))["seed"])


def _of_suite(figures: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Samples], seed: int) -> dict[str, Any]:
    shared = [name for name in next(iter(rows.values())) if all(name in by_id for by_id in rows.values())]
    first, *_ = figures
    asked = {model: [by_id[name] for name in shared] for model, by_id in rows.items()}
    data = {model: _data(figures[model], asked[model], seed) for model in figures}
    systems = {model: _systems(data[model], asked[model], bool(figures[model]["guards"])) for model in figures}
    everything = lambda prompt: True
    parts = {
        (model, name): rates_by(data[model], system)
        for model, by_name in systems.items()
        for name, system in by_name.items()
    }
    return {
        "against": first,
        "models": {
            model: {name: rates_of(data[model], system, everything) for name, system in by_name.items()}
            for model, by_name in systems.items()
        },
        "changes": {
            model: {
                name: changes_of(data[model], systems[first][NONE], system)
                for name, system in by_name.items()
                if (model, name) != (first, NONE)
            }
            for model, by_name in systems.items()
        },
        **{title: _turned(title, parts) for title in ("by_category", "by_language")},
    }


def _data(figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seed: int) -> SafetyData:
    """What was judged of the answers of one model. What its guards said is in the rows, as `blocked`."""
    prompts = [SafetyPrompt(row["id"], row["kind"], row["lang"], row["category"], (), {}) for row in rows]
    outcomes, errors = {}, {}
    for event, told in figures["judges"].items():
        outcomes[event] = Outcomes.of([row.get(event) for row in rows], told["threshold"])
        errors[event] = None if told["card"] is None else JudgeErrors(**told["card"]["errors"])
    none = GuardScores(Policy({}), {}, {}, len(rows))
    return SafetyData(prompts, outcomes["violates"], outcomes["refuses"], none, errors, seed)


def _systems(data: SafetyData, rows: Sequence[Mapping[str, Any]], guarded: bool) -> dict[str, System]:
    blocked_N = np.array([row["blocked"] for row in rows], bool)
    bare = System.of(data, np.zeros(len(rows), bool))
    return {NONE: bare, **({FULL: System.of(data, blocked_N)} if guarded else {})}


def _turned(title: str, parts: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """By category (or language) and model and system the rates."""
    names = dict.fromkeys(name for found in parts.values() for name in found[title])
    return {name: _nested((key, found[title][name]) for key, found in parts.items()) for name in names}


def _nested(rows: Iterator[tuple[tuple[str, str], Any]]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for (model, system), rates in rows:
        nested.setdefault(model, {})[system] = rates
    return nested
