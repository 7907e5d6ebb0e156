"""What contamination is worth to a model: the estimated gain, the score on all items of a suite less that on the clean
ones (paper 5.1.4).

From which coverage on an item counts as contaminated is chosen for every suite: the threshold of the largest gain among
those that are significant. Where a part is too small or the gain changes its sign there is no estimate, as in the
paper's table. Letters: N items.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llama3.artifacts import Artifact
from llama3.evaluation.audit import Suite, read_suites
from llama3.evaluation.intervals import ENOUGH_DOCUMENTS, Z95
from llama3.evaluation.stages import COVERAGE

THRESHOLDS = tuple(step / 10 for step in range(1, 11))


def contamination_gains(found: Artifact, evaluations: Mapping[str, Artifact]) -> dict[str, dict[str, Any]]:
    """The gain of every suite whose items are among those that were looked for: by model, as `suite_gain` tells it."""
    if all(entry.path != COVERAGE for entry in found.manifest.files):
        return {}  # of a run that an earlier version began
    with found.file(COVERAGE).open(encoding="utf-8") as file:
        coverage = {row["id"]: row["coverage"] for row in map(json.loads, file)}
    by_suite: dict[str, dict[str, Suite]] = {}
    for model, evaluation in evaluations.items():
        for name, suite in read_suites(evaluation).items():
            if suite.rows and not suite.error and coverage.keys() >= suite.rows.keys():
                by_suite.setdefault(name, {})[model] = suite
    return {name: suite_gain(suites, coverage) for name, suites in by_suite.items()}


def suite_gain(suites: Mapping[str, Suite], coverage: Mapping[str, float]) -> dict[str, Any]:
    """The gain of one suite for each model that answered it, given the coverage of its items by id.

    {n, verdict, threshold, contaminated, models: {name: {gain, score, clean_score, contaminated_score, by_threshold}}}:
    the threshold is one for all models, that of the largest significant gain. `verdict` is "estimated", "too few
    items", "erratic" or "not significant"; but for the first, threshold, contaminated and the gains are null.
    """
    rows = {name: _by_threshold(suite, coverage) for name, suite in suites.items()}
    verdict, best = _chosen([row for of_model in rows.values() for row in of_model])
    models = {}
    for name, of_model in rows.items():
        here = next((row for row in of_model if best and row["threshold"] == best["threshold"]), {})
        told = {key: here.get(key) for key in ("gain", "clean_score", "contaminated_score")}
        models[name] = {"score": of_model[0]["score"], **told, "by_threshold": of_model}
    share_N = np.array([coverage[id] for id in next(iter(suites.values())).rows])
    threshold = best["threshold"] if best else None
    return {
        "n": len(share_N),
        "verdict": verdict,
        "threshold": threshold,
        "contaminated": None if threshold is None else int((share_N >= threshold).sum()),
        "mean_coverage": float(share_N.mean()),
        "models": models,
    }


def _by_threshold(suite: Suite, coverage: Mapping[str, float]) -> list[dict[str, Any]]:
    share_N = np.array([coverage[id] for id in suite.rows])
    score_N, weight_N = suite.column("score"), suite.column("weight", 1.0)
    return [gain_at(threshold, share_N, score_N, weight_N, suite.better) for threshold in THRESHOLDS]


def gain_at(
    threshold: float, share_N: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray, better: str
) -> dict[str, Any]:
    """The parts above and below a threshold. `gain` is positive where contaminated items are the easier ones; `z` tells
    the two parts apart by the spread of all items (None where a part has fewer than ENOUGH_DOCUMENTS items)."""
    dirty_N = share_N >= threshold
    dirty, clean = (_figure(score_N[part], weight_N[part]) for part in (dirty_N, ~dirty_N))
    whole = _figure(score_N, weight_N)
    assert whole is not None
    sign = 1.0 if better == "higher" else -1.0
    count = int(dirty_N.sum())
    enough = min(count, len(share_N) - count) >= ENOUGH_DOCUMENTS
    return {
        "threshold": threshold,
        "contaminated": count,
        "score": whole,
        "clean_score": clean,
        "contaminated_score": dirty,
        "gain": None if clean is None else sign * (whole - clean),
        "z": sign * _z(dirty_N, score_N, weight_N) if enough else None,
    }


def _figure(score_N: np.ndarray, weight_N: np.ndarray) -> float | None:
    return float(score_N.sum() / weight_N.sum()) if len(score_N) else None


def _z(dirty_N: np.ndarray, score_N: np.ndarray, weight_N: np.ndarray) -> float:
    """How many standard errors the contaminated part lies above the clean one, if both were drawn from all items."""
    error_N = score_N - score_N.sum() / weight_N.sum() * weight_N
    spread = math.sqrt(float((error_N**2).sum()) / (len(error_N) - 1))
    apart, variance = 0.0, 0.0
    for part, sign in ((dirty_N, 1.0), (~dirty_N, -1.0)):
        apart += sign * float(error_N[part].sum() / weight_N[part].sum())
        variance += int(part.sum()) / float(weight_N[part].sum()) ** 2
    return apart / (spread * math.sqrt(variance)) if spread > 0 else 0.0


def _chosen(rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any] | None]:
    """What can be said of the gains of all models and thresholds, and the one to report."""
    told = [row for row in rows if row["z"] is not None]
    significant = [row for row in told if abs(row["z"]) >= Z95]
    if not told:
        return "too few items", None
    if not significant:
        return "not significant", None
    if len({row["z"] > 0 for row in significant}) == 2:
        return "erratic", None
    return "estimated", max(significant, key=lambda row: abs(row["gain"]))
