"""Fully sharded data parallelism: torch's FSDP2 over the `dp` axis (ZeRO-3), and over `cp` with it.

Weights, gradients and moments are cut over the ranks; a block's weights are gathered just before it computes. Gradients
of an update are added up on each rank first and exchanged once, as its last backward pass goes through the blocks. With
`replicas` the ranks form several whole copies (hybrid sharding): weights are gathered among neighbours only, and
gradients are added up over the copies too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from llama3.errors import ConfigError, Problem
from llama3.parallelism import (
    Cost,
    Dims,
    ModelConfig,
    ParallelContext,
    ParallelStrategy,
    StepShape,
    Transformer,
)
from llama3_plugins.parallelism.options import FsdpOptions
from llama3_plugins.parallelism.sharding import sharded

UNEVEN_REPLICAS = ConfigError.declare(
    "L3-PAR-020",
    "{ranks} ranks cannot form {replicas} copies of the weights",
    why="each copy is shared by as many ranks",
    fix="set replicas to one of {fitting}",
)

FINISHES = hasattr(FSDPModule, "finalize_backward")
"""Whether this torch can exchange gradients after the backward passes. One that cannot does it all in the last pass."""
GATHERED = {"fp32": None, "bf16": torch.bfloat16}


class Fsdp(ParallelStrategy):
    """Each block is a unit of its own; embedding, last norm and head belong to the root. Uneven shards are padded."""

    def __init__(self, options: FsdpOptions) -> None:
        self.options = options

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        replicas = self.options.replicas
        if dims.dp % replicas == 0:
            return []
        fitting = [count for count in range(1, dims.dp + 1) if dims.dp % count == 0]
        return [UNEVEN_REPLICAS.problem("parallelism.dp", ranks=dims.dp, replicas=replicas, fitting=fitting)]

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        width = 2 if self.options.gather == "bf16" else 4
        reshard, replicas = self.options.reshard, self.options.replicas
        return sharded(model, dims, step, reshard=reshard, replicas=replicas, width=width)

    def choices(self, model: ModelConfig, dims: Dims) -> list[dict[str, Any]]:
        """Weights in the type of the products, gathered for each pass or once an update."""
        return [{"gather": "bf16"}, {"gather": "bf16", "reshard": False}]

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None:
            return
        assert isinstance(model, Transformer)
        mesh, reshard = context.loss_mesh(self.options.replicas), self.options.reshard
        policy = MixedPrecisionPolicy(GATHERED[self.options.gather], torch.float32)  # also of what a stage receives
        for block in model.layers.children():
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        root = fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
        for module in _units(model):
            # The loop's loss is already a share of the global sum: gradients are added, never averaged.
            # The plain sum also keeps gloo working, which lacks the pre-multiplied one.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        if FINISHES:
            root.set_manual_backward_finalization(True)
        model.set_gradient_sync = partial(_set_gradient_sync, root, reshard)
        if not reshard:
            model.register_forward_hook(_give_back)

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        """Exchanges what the last backward pass has left: of blocks that it did not go through."""
        if FINISHES and isinstance(model, FSDPModule):
            _set_gradient_sync(model, True, True)
            model.finalize_backward()


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _set_gradient_sync(root: FSDPModule, reshard: bool, last: bool) -> None:
    """Before a backward pass. Weights that are not given back after a forward stay for all passes of the update."""
    root.set_requires_gradient_sync(last)
    root.set_reshard_after_backward(last or reshard)


def _give_back(model: nn.Module, *_: Any) -> None:
    """After a forward that no backward follows, which would give the weights back."""
    if not torch.is_grad_enabled():
        for module in _units(model):
            module.reshard()
