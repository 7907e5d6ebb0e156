"""What capability recipes made, for the report of a run: the figures of every stage `capability`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama3.artifacts import Artifact

STAGE = "capability"


def skill_figures(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """By the key of the artifact its metrics, with the means of turns and tokens of what was kept."""
    return {
        key: {**artifact.metrics, "mean": _means(artifact.metrics)}
        for key, artifact in artifacts.items()
        if artifact.manifest.stage == STAGE
    }


def _means(metrics: Mapping[str, Any]) -> dict[str, float]:
    kept = max(metrics["kept"], 1)
    return {name: round(metrics[name] / kept, 1) for name in ("turns", "tokens")}
