"""Plain data parallelism along `dp`: every rank has all weights, and gradients are added up once per update.

Beside `tp` and `pp` "all weights" are those of the rank's part of the model.
"""

from __future__ import annotations

from functools import partial

import torch.distributed as dist
from torch import nn

from llama3.parallelism import Cost, Dims, ModelConfig, ParallelContext, ParallelStrategy, StepShape, local
from llama3_plugins.parallelism.collectives import sum_together


class Ddp(ParallelStrategy):
    """Any model of which a rank's part fits on its device with gradients and moments."""

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """Nothing is shared; all gradients are added up over the ranks when the last backward pass is done."""
        gradients = 4 * model.num_params() / (dims.tp * dims.pp)
        return Cost(sent=2 * (1 - 1 / dims.dp) * gradients, messages=2.0 * (dims.dp > 1))

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None or context.dims.dp == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        sum_together(
            [local(gradient) for gradient in gradients], partial(dist.all_reduce, group=context.groups["batch"])
        )
