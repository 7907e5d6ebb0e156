"""Fully sharded data parallelism: torch's FSDP2 over the `dp` axis (ZeRO-3).

Weights, gradients and moments are cut over the ranks; a block's weights are gathered just before it computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.autograd.graph import increment_version
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from llama3.errors import Problem
from llama3.model.config import ModelConfig
from llama3.training.parallel import (
    Cost,
    Dims,
    ParallelContext,
    ParallelStrategy,
    StepShape,
    state_bytes,
    step_activation_bytes,
)


class Fsdp(ParallelStrategy):
    """Each block is a unit of its own; embedding, last norm and head belong to the root."""

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        return []  # FSDP2 pads what does not divide

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """Every microbatch gathers the fp32 weights twice (forward, backward) and scatters the gradients once."""
        weights = 4 * model.num_params()
        per_pass = 3 * weights * (dims.dp - 1) // dims.dp
        return Cost(
            memory=state_bytes(model) // dims.dp + weights // model.n_layers + step_activation_bytes(model, step),
            sent=per_pass * step.microbatches(dims),
        )

    def apply(self, model: nn.Module, context: ParallelContext) -> nn.Module:
        if context.mesh is None:
            return model
        mesh = context.mesh["dp"]
        for block in model.get_submodule("layers").children():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "step")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # The loop's loss is already a share of the global sum: gradients are added, never averaged.
                # The plain sum also keeps gloo working, which lacks the pre-multiplied one.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return model

    @contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        blocks = [unit for unit in units if unit is not model]
        try:
            for unit in units:
                unit.unshard()
            for block in blocks:  # ranks may take different numbers of steps: none may wait for another's weights
                block.set_reshard_after_forward(False)
            # Gathering does not count as a write, by which an engine sees that its cached prompts are stale.
            increment_version(list(model.parameters()))
            yield
        finally:
            for block in blocks:
                block.set_reshard_after_forward(True)
            for unit in units:
                unit.reshard()
