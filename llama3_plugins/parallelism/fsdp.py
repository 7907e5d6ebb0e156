"""Fully sharded data parallelism: torch's FSDP2 over the `dp` axis (ZeRO-3), and over `cp` with it.

Weights, gradients and moments are cut over the ranks; a block's weights are gathered just before it computes.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from llama3.parallelism import Cost, Dims, ModelConfig, ParallelContext, ParallelStrategy, StepShape
from llama3_plugins.parallelism.sharding import sharded


class Fsdp(ParallelStrategy):
    """Each block is a unit of its own; embedding, last norm and head belong to the root. Uneven shards are padded."""

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        return sharded(model, dims, step, reshard=False)

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None:
            return
        mesh = context.loss_mesh
        for block in model.get_submodule("layers").children():
            fully_shard(block, mesh=mesh)
        # The root too gives its weights back after a forward: a frozen model has no backward that would do it.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # The loop's loss is already a share of the global sum: gradients are added, never averaged.
                # The plain sum also keeps gloo working, which lacks the pre-multiplied one.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
