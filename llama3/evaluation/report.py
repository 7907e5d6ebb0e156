"""The report of a run: `report.json` holds every figure, `report.html` shows them and nothing else.

The page is one file without scripts or outside resources; its plots are inline SVG (see `page`). Names in `report.json`
are public: they are added to, never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama3.artifacts import Artifact
from llama3.evaluation.curation_page import curation_figures
from llama3.evaluation.dialogs_page import dialog_figures
from llama3.evaluation.gain import contamination_gains
from llama3.evaluation.page import render_html
from llama3.evaluation.reward_histograms import reward_histograms, stored_samples
from llama3.evaluation.safety_changes import safety_changes
from llama3.evaluation.skills_page import skill_figures
from llama3.evaluation.stages import evaluate
from llama3.evaluation.step_changes import step_changes
from llama3.evaluation.verdict import models_of, verdict_of

__all__ = ["build_report", "curves", "render_html", "thin"]

SCHEMA = 1
MOST_POINTS = 300
"""Points kept of each curve."""
EXAMPLES_PER_FAMILY = 1
"""Held-out tasks of each family whose answers are shown."""


def build_report(
    run: str,
    *,
    corpus: Artifact,
    evaluations: Mapping[str, Artifact],
    baselines: Artifact,
    contamination: Artifact,
    quantized: Mapping[str, Artifact],
    metrics: Iterable[Mapping[str, Any]],
    model: Mapping[str, Any],
    policy: Mapping[str, Any],
    artifacts: Mapping[str, Artifact],
    samples: Iterable[Mapping[str, Any]] = (),
    audit: Artifact | None = None,
    held_back: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of `report.json`.

    Args:
        evaluations: by model (base, sft, final, int8), base first.
        metrics: rows of `metrics.jsonl`, with the `key` of the artifact that each tells of where it is known.
        samples: rows of `samples.jsonl`, likewise.
        held_back: why a long-context stage was not passed, where the run ended there.
        artifacts: everything that the run made so far, by key.
        seconds: how long each of them took, by key.
    """
    rows = list(metrics)
    drawn = [*stored_samples(artifacts), *samples]
    results = {name: artifact.metrics for name, artifact in evaluations.items()}
    tasks = {name: next(_with_pass_rate(result), "") for name, result in results.items()}
    passed = {name: results[name][suite] for name, suite in tasks.items() if suite}
    language = {
        name: result.get(_first_with("bits_per_byte", result), {}).get("bits_per_byte")
        for name, result in results.items()
    }
    report = {
        "schema": SCHEMA,
        "run": run,
        "made": _made(artifacts, seconds or {}),
        "model": dict(model),
        "models": models_of(evaluations, artifacts, quantized),
        "bits_per_byte": {
            "model": next(iter(language.values())),
            "gzip": baselines.metrics["gzip"],
            "order3": baselines.metrics["order3"],
        },
        "bits_per_byte_by_model": language,
        "pass_rate": {name: result["pass_rate"] for name, result in passed.items()},
        "pass_rate_by_family": _by_family(passed),
        "evaluations": results,
        "changes": step_changes(evaluations),
        "contamination": contamination.metrics,
        "contamination_gain": contamination_gains(contamination, evaluations),
        "decontamination": corpus.metrics.get("decontamination", {}),
        "examples": _examples(evaluations, tasks),
        "funnel": _funnel(corpus.metrics["funnel"]),
        "losses": corpus.metrics.get("losses", []),
        "curation": curation_figures(corpus, artifacts.get("synthetic")),
        "dialogs": dialog_figures(artifacts),
        "capabilities": skill_figures(artifacts),
        "without_model": corpus.metrics.get("without_model", []),
        "loss": curves(rows, "loss"),
        "rollouts": _of_answers(rows, drawn, "stage"),
        "curves": {"loss": curves(rows, "loss", "key"), **_of_answers(rows, drawn, "key")},
        "audit": None if audit is None else audit.metrics,
        "audit_examples": {} if audit is None else json.loads(audit.file("audit.json").read_text("utf-8"))["examples"],
        "quantization": {name: artifact.metrics for name, artifact in quantized.items()},
        "heat_maps": heat_maps(artifacts),
        "held_back": list(held_back),
        "safety": {"policy": policy, "suites": safety_changes(evaluations)},
        "artifacts": {name: artifact.hash for name, artifact in artifacts.items()},
        "stages": _stages(artifacts, seconds or {}),
    }
    return report | {"verdict": verdict_of(report)}


def _made(artifacts: Mapping[str, Artifact], seconds: Mapping[str, float]) -> dict[str, Any]:
    """When, how long and by which code: the same again where a second run has nothing to do."""
    manifests = [artifact.manifest for artifact in artifacts.values()]
    return {
        "date": max((made.created for made in manifests), default=None),
        "seconds": round(sum(seconds.values()), 3) if seconds else None,
        "versions": sorted({made.code.version for made in manifests}),
        "commits": sorted({made.code.git for made in manifests if made.code.git}),
    }


def _stages(artifacts: Mapping[str, Artifact], seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "stage": artifact.manifest.stage,
            "artifact": artifact.hash,
            "created": artifact.manifest.created,
            "seconds": seconds.get(key),
        }
        for key, artifact in artifacts.items()
    ]


def heat_maps(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """By the key of an evaluation and its suite, what was found by length and depth: {lengths, depths, shares}."""
    return {
        f"{key}: {suite}": dict(result["heat_map"])
        for key, artifact in artifacts.items()
        if artifact.manifest.stage == evaluate.name
        for suite, result in artifact.metrics.items()
        if isinstance(result, Mapping) and "heat_map" in result
    }


def _first_with(metric: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The first suite that measured `metric`, or ""."""
    return next((suite for suite, result in results.items() if metric in result), "")


def _with_pass_rate(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The suites that tell a pass rate as the built-in one does; a third party's may mean another thing by the name."""
    for suite, result in results.items():
        families = result.get("by_family")
        if isinstance(families, Mapping) and all(map(_is_rate, (result.get("pass_rate"), *families.values()))):
            yield suite


def _is_rate(figure: Any) -> bool:
    return isinstance(figure, Mapping) and figure.keys() == {"rate", "low", "high", "n"}


def _by_family(passed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    families = sorted({family for result in passed.values() for family in result["by_family"]})
    return {
        family: {name: result["by_family"][family] for name, result in passed.items() if family in result["by_family"]}
        for family in families
    }


def _funnel(stages: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[tuple[str, int]]:
    return [(stage, sum(cell["documents"] for cell in by_source.values())) for stage, by_source in stages.items()]


def _examples(evaluations: Mapping[str, Artifact], suites: Mapping[str, str]) -> list[dict[str, Any]]:
    """The first tasks of each family with what is right and what every model answered; `suites` says which suite has
    them. A score of 1 is right."""
    shown: dict[str, dict[str, Any]] = {}
    for name, artifact in evaluations.items():
        with artifact.file("samples.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["suite"] != suites[name] or not row.keys() >= {"id", "family", "prompt", "answer"}:
                    continue
                asked = {"family": row["family"], "prompt": row["prompt"], "expected": row.get("reference")}
                example = shown.setdefault(row["id"], {**asked, "answers": {}, "scores": {}})
                example["answers"][name] = row["answer"]
                example["scores"][name] = row.get("score")
    taken: dict[str, int] = {}
    chosen = []
    for example in shown.values():
        taken[example["family"]] = taken.get(example["family"], 0) + 1
        if taken[example["family"]] <= EXAMPLES_PER_FAMILY:
            chosen.append(example)
    return sorted(chosen, key=lambda example: example["family"])


def thin(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, evenly chosen, the last one always among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def curves(rows: Sequence[Mapping[str, Any]], metric: str, by: str = "stage") -> dict[str, list[tuple[float, float]]]:
    """`metric` over the step, by stage, from the rows of `metrics.jsonl`. A step logged twice counts once.

    `by="key"` tells the rounds of a stage apart.
    """
    by_stage: dict[str, dict[float, float]] = {}
    for row in rows:
        if isinstance(row.get(metric), (int, float)):
            name = _key(row) if by == "key" else row["stage"]
            by_stage.setdefault(name, {})[row["step"]] = row[metric]
    return {stage: thin(sorted(points.items())) for stage, points in by_stage.items()}


def _of_answers(rows: Sequence[Mapping[str, Any]], drawn: Iterable[Mapping[str, Any]], by: str) -> dict[str, Any]:
    """What is known of sampled answers, by stage or, with the rounds told apart, by key."""
    return {
        "reward": curves(rows, "reward", by),
        "kl": curves(rows, "objective/kl", by) | curves(rows, "kl", by),
        "length": curves(rows, "completions/mean_length", by),
        "histograms": reward_histograms({**row, "stage": _key(row)} if by == "key" else row for row in drawn),
    }


def _key(row: Mapping[str, Any]) -> Any:
    """The artifact that a row tells of, else its stage."""
    return row.get("key", row.get("stage"))
