"""Metrics as one line of text per logged step, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from llama3.loggers import Sample

WIDTH = 60
"""Characters shown of a sample's texts."""


class ConsoleLogger:
    """`pretrain 120  loss 4.213  grad_norm 0.912 ...`, and the first sample of each logged step in short."""

    def open(self, directory: Path, stage: str) -> None:
        self._stage, self._sampled = stage, -1

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())
        print(f"{self._stage} {step}  {shown}", file=sys.stderr, flush=True)

    def sample(self, step: int, sample: Sample) -> None:
        if step == self._sampled:
            return
        self._sampled = step
        shown = "  ".join(f"{name} {_short(value)}" for name, value in sample.items())
        print(f"{self._stage} {step}  {shown}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held open."""


def _short(value: str | float | None) -> str:
    if value is None:
        return "unknown"
    if not isinstance(value, str):
        return _number(value)
    line = " ".join(value.split())
    return repr(line if len(line) <= WIDTH else line[: WIDTH - 3] + "...")


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
