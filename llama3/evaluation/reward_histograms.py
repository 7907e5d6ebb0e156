"""How the rewards of sampled answers are distributed, stage by stage: histograms of the first and the last answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from llama3.artifacts import Artifact

BINS = 12
FIRST, LAST, ALL = "first half", "last half", "all"


def reward_histograms(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{stage: {edges, counts: {which: [count of each bin]}, unknown}} of rows {stage, step, prompt, answer, reward}.

    A stage with steps is shown as two halves, one without as a whole. A row that a resumed run told again counts once;
    a reward that is no finite number is unknown.
    """
    by_stage: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        stage, step, reward = row.get("stage"), row.get("step"), row.get("reward")
        if isinstance(stage, str) and "reward" in row:
            told = json.dumps([step, row.get("prompt"), row.get("answer")])
            by_stage.setdefault(stage, {})[told] = _number(step), _number(reward)
    return {stage: _histogram(np.array(list(told.values()))) for stage, told in by_stage.items()}


def stored_samples(artifacts: Mapping[str, Artifact]) -> Iterator[dict[str, Any]]:
    """The answers that sampling stages keep with what they made of them, as rows of a stage without steps."""
    for key, artifact in artifacts.items():
        named = any(entry.path == "samples.jsonl" for entry in artifact.manifest.files)
        if artifact.type in ("dialogs", "preferences") and named:
            with artifact.file("samples.jsonl").open(encoding="utf-8") as file:
                for number, line in enumerate(file):
                    # The same answer drawn twice is two answers.
                    yield {**json.loads(line), "stage": key, "step": None, "prompt": number}


def _histogram(told_N2: np.ndarray) -> dict[str, Any]:
    """Of rows (step, reward), NaN where there is none."""
    step_N, reward_N = told_N2[:, 0], told_N2[:, 1]
    known_N = np.isfinite(reward_N)
    values_N = reward_N[known_N]
    if len(values_N) == 0:
        return {"edges": [], "counts": {}, "unknown": len(reward_N)}
    edges = np.histogram_bin_edges(values_N, BINS if values_N.min() < values_N.max() else 1)
    steps = np.unique(step_N[np.isfinite(step_N)])
    parts = {ALL: known_N}
    if len(steps) > 1:
        late_N = step_N >= steps[len(steps) // 2]
        parts = {FIRST: known_N & ~late_N, LAST: known_N & late_N}
    counts = {name: np.histogram(reward_N[mask_N], edges)[0].tolist() for name, mask_N in parts.items()}
    return {"edges": edges.tolist(), "counts": counts, "unknown": int((~known_N).sum())}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
