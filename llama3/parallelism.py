"""What authors of parallel strategies need (hook `llama3_parallel_strategies`). Stable: names go only with a new
version of the protocols.
"""

from __future__ import annotations

from llama3.errors import Problem
from llama3.model.activations import Kept
from llama3.model.attention import Attention, forest_attention
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.model.lora import LoRALinear
from llama3.model.ops import rms_norm
from llama3.model.rows import CutRows, ForestRows
from llama3.model.score import Microbatch
from llama3.model.shards import local
from llama3.model.transformer import Transformer
from llama3.training.estimate import Cost, PipelineTurn, StepShape
from llama3.training.parallel import (
    Columns,
    Dims,
    Group,
    Loss,
    ParallelContext,
    ParallelStrategy,
    Read,
    Runner,
)
from llama3.training.replicas import HandedOver, Member, Replicas

__all__ = [
    "Attention",
    "Batch",
    "Columns",
    "Cost",
    "CutRows",
    "Dims",
    "ForestRows",
    "Group",
    "HandedOver",
    "Kept",
    "LoRALinear",
    "Loss",
    "Member",
    "Microbatch",
    "ModelConfig",
    "ParallelContext",
    "ParallelStrategy",
    "PipelineTurn",
    "Problem",
    "Read",
    "Replicas",
    "Runner",
    "StepShape",
    "Transformer",
    "forest_attention",
    "local",
    "rms_norm",
]
