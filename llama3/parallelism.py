"""What authors of parallel strategies need (hook `llama3_parallel_strategies`). Stable: names go only with a new
version of the protocols.
"""

from __future__ import annotations

from llama3.errors import Problem
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.training.parallel import (
    Columns,
    Dims,
    Group,
    Loss,
    Microbatch,
    ParallelContext,
    ParallelStrategy,
    Read,
    Runner,
)

__all__ = [
    "Batch",
    "Columns",
    "Dims",
    "Group",
    "Loss",
    "Microbatch",
    "ModelConfig",
    "ParallelContext",
    "ParallelStrategy",
    "Problem",
    "Read",
    "Runner",
]
