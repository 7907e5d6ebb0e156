"""Metrics as one line of text per logged step, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


class ConsoleLogger:
    """`pretrain 120  loss 4.213  grad_norm 0.912 ...`"""

    def open(self, directory: Path, stage: str) -> None:
        self._stage = stage

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())
        print(f"{self._stage} {step}  {shown}", file=sys.stderr, flush=True)

    def sample(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            print(f"{self._stage} {step}  {name}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is held open."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
