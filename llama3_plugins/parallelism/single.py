"""No parallelism: one process holds the whole model."""

from __future__ import annotations

from llama3.errors import Problem
from llama3.model.config import ModelConfig
from llama3.training.parallel import Dims, ParallelStrategy


class Single(ParallelStrategy):
    """Runs in one process only; says what to set for more."""

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        if dims.dp == 1:
            return []
        what = f"'single' runs in one process, this run has {dims.dp}"
        fix = f"set parallelism.dp: {{name: fsdp, size: {dims.dp}}}, or start without torchrun"
        return [Problem("L3-PAR-003", "parallelism.dp", what, fix=fix)]
