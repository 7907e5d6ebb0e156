"""Metrics as TensorBoard event files: `tensorboard --logdir runs/<name>/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from llama3.loggers import Sample, key_now


class TensorBoardLogger:
    """One event directory per stage and round (`sft-1`, `sft-2`), so that their curves stand side by side. A step that
    a resumed run repeats appears twice, with equal values."""

    def open(self, directory: Path, stage: str) -> None:
        self._writer = SummaryWriter(str(directory / "tensorboard" / (key_now(directory) or stage)))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def sample(self, step: int, sample: Sample) -> None:
        self._writer.add_text("sample", "\n\n".join(f"**{name}** {value}" for name, value in sample.items()), step)

    def close(self) -> None:
        self._writer.close()
