"""No parallelism: one process holds the whole model."""

from __future__ import annotations

from llama3.errors import ConfigError, Problem
from llama3.parallelism import Dims, ModelConfig, ParallelStrategy

MORE_PROCESSES = ConfigError.declare(
    "L3-PAR-003",
    "'single' runs in one process, this run has {processes}",
    fix="set parallelism.dp: {{name: fsdp, size: {processes}}}, or start without torchrun",
)


class Single(ParallelStrategy):
    """Runs in one process only; says what to set for more."""

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        if dims.dp == 1:
            return []
        return [MORE_PROCESSES.problem("parallelism.dp", processes=dims.dp)]
