"""Metrics as one JSON object per line: `metrics.jsonl` and `samples.jsonl` in the run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from llama3.loggers import Sample, append_json_line, artifact_now, key_now


class JsonlLogger:
    """Appends `{"stage", "key", "artifact", "step", <metric>: number or null}`. Key and artifact, as in `events.jsonl`,
    tell the sizes, rounds and members of a herd apart; outside a run they are not there. After a resume the last line
    of a step counts."""

    def open(self, directory: Path, stage: str) -> None:
        self._directory = directory
        named = {"stage": stage, "key": key_now(directory), "artifact": artifact_now(directory)}
        self._of = {name: value for name, value in named.items() if value is not None}
        directory.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        append_json_line(self._directory / "metrics.jsonl", {**self._of, "step": step, **finite})

    def sample(self, step: int, sample: Sample) -> None:
        append_json_line(self._directory / "samples.jsonl", {**self._of, "step": step, **sample})

    def close(self) -> None:
        """Every line is on its own: nothing is held open."""
