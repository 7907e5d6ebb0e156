"""Plain data parallelism along `dp`: every rank has all weights, and gradients are added up once per update.

Beside `tp` and `pp` "all weights" are those of the rank's part of the model.
"""

from __future__ import annotations

from torch import nn

from llama3.parallelism import ParallelContext, ParallelStrategy, local
from llama3_plugins.parallelism.collectives import sum_together


class Ddp(ParallelStrategy):
    """Any model of which a rank's part fits on its device with gradients and moments."""

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None or context.dims.dp == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        sum_together([local(gradient) for gradient in gradients], context.groups["batch"])
