"""The report of a run: `report.json` holds every figure, `report.html` shows them and nothing else.

The page is one file without scripts or outside resources; its plots are inline SVG.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from llama3.artifacts import Artifact
from llama3.evaluation.audit import TABLE_HEAD, table
from llama3.evaluation.charts import funnel_chart, histogram_chart, line_chart, rate_chart
from llama3.evaluation.intervals import Rate
from llama3.evaluation.reward_histograms import reward_histograms, stored_samples

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
) -> dict[str, Any]:
    """The content of `report.json`. `evaluations` are by model (base, sft, final, int8), base first; `metrics` and
    `samples` are the rows of `metrics.jsonl` and `samples.jsonl`."""
    rows = list(metrics)
    results = {name: artifact.metrics for name, artifact in evaluations.items()}
    tasks = {name: _first_with("pass_rate", result) for name, result in results.items()}
    passed = {name: results[name][suite] for name, suite in tasks.items() if suite}
    language = {
        name: result.get(_first_with("bits_per_byte", result), {}).get("bits_per_byte")
        for name, result in results.items()
    }
    return {
        "schema": SCHEMA,
        "run": run,
        "model": dict(model),
        "bits_per_byte": {
            "model": next(iter(language.values())),
            "gzip": baselines.metrics["gzip"],
            "order3": baselines.metrics["order3"],
        },
        "bits_per_byte_by_model": language,
        "pass_rate": {name: result["pass_rate"] for name, result in passed.items()},
        "pass_rate_by_family": _by_family(passed),
        "evaluations": results,
        "contamination": contamination.metrics,
        "examples": _examples(evaluations, tasks),
        "funnel": _funnel(corpus.metrics["funnel"]),
        "losses": corpus.metrics.get("losses", []),
        "loss": curves(rows, "loss"),
        "rollouts": {
            "reward": curves(rows, "reward"),
            "kl": curves(rows, "objective/kl") | curves(rows, "kl"),
            "length": curves(rows, "completions/mean_length"),
            "histograms": reward_histograms([*stored_samples(artifacts), *samples]),
        },
        "audit": None if audit is None else audit.metrics,
        "audit_examples": {} if audit is None else json.loads(audit.file("audit.json").read_text("utf-8"))["examples"],
        "quantization": {name: artifact.metrics for name, artifact in quantized.items()},
        "safety": {"policy": policy},
        "artifacts": {name: artifact.hash for name, artifact in artifacts.items()},
    }


def _first_with(metric: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The first suite that measured `metric`, or ""."""
    return next((suite for suite, result in results.items() if metric in result), "")


def _by_family(passed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    families = sorted({family for result in passed.values() for family in result["by_family"]})
    return {
        family: {name: result["by_family"][family] for name, result in passed.items() if family in result["by_family"]}
        for family in families
    }


def _funnel(stages: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[tuple[str, int]]:
    return [(stage, sum(cell["documents"] for cell in by_source.values())) for stage, by_source in stages.items()]


def _examples(evaluations: Mapping[str, Artifact], suites: Mapping[str, str]) -> list[dict[str, Any]]:
    """The first tasks of each family with what every model answered; `suites` says which suite has them."""
    shown: dict[str, dict[str, Any]] = {}
    for name, artifact in evaluations.items():
        with artifact.file("samples.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["suite"] != suites[name]:
                    continue
                example = shown.setdefault(row["id"], {"family": row["family"], "prompt": row["prompt"], "answers": {}})
                example["answers"][name] = row["answer"]
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


def curves(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[tuple[float, float]]]:
    """`metric` over the step, by stage, from the rows of `metrics.jsonl`. A step logged twice counts once."""
    by_stage: dict[str, dict[float, float]] = {}
    for row in rows:
        if isinstance(row.get(metric), (int, float)):
            by_stage.setdefault(row["stage"], {})[row["step"]] = row[metric]
    return {stage: thin(sorted(points.items())) for stage, points in by_stage.items()}


def render_html(report: Mapping[str, Any]) -> str:
    """The page of a report. `report` is the content of `report.json`."""
    source = (files("llama3.evaluation") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    rates = {name: Rate(**rate) for name, rate in report["pass_rate"].items()}
    loss = report["loss"]
    return environment.from_string(source).render(
        report=report,
        pass_rates=rate_chart(rates),
        funnel=funnel_chart([(name, count) for name, count in report["funnel"]]),
        losses=[(stage, line_chart({stage: points}, "step", "loss")) for stage, points in loss.items()],
        audit=[TABLE_HEAD, *table(report["audit"])] if report["audit"] else [],
        rollouts=list(_rollout_charts(report["rollouts"])),
        percent=lambda value: f"{100 * value:.1f} %",
    )


def _rollout_charts(rollouts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title and chart of everything that is known of sampled answers."""
    labels = {"reward": "mean reward", "kl": "KL to the reference, nats", "length": "mean length, tokens"}
    for name, label in labels.items():
        if rollouts[name]:
            yield label, line_chart(rollouts[name], "step", label)
    for stage, histogram in rollouts["histograms"].items():
        unknown = f" ({histogram['unknown']} answers without one)" if histogram["unknown"] else ""
        yield f"rewards of {stage}{unknown}", histogram_chart(histogram["edges"], histogram["counts"], "reward")
