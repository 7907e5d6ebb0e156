"""Metrics as one JSON object per line: `metrics.jsonl` and `samples.jsonl` in the run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from llama3.loggers import Sample, append_json_line


class JsonlLogger:
    """Appends `{"stage", "step", <metric>: number or null}`. After a resume the last line of a step counts."""

    def open(self, directory: Path, stage: str) -> None:
        self._directory, self._stage = directory, stage
        directory.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        append_json_line(self._directory / "metrics.jsonl", {"stage": self._stage, "step": step, **finite})

    def sample(self, step: int, sample: Sample) -> None:
        append_json_line(self._directory / "samples.jsonl", {"stage": self._stage, "step": step, **sample})

    def close(self) -> None:
        """Every line is on its own: nothing is held open."""
