"""Live healing along `dp`: replica groups, each a run of its own, that train one model together and may come and go.

`torchft` (Meta, BSD) finds out who is there, step by step: a lighthouse, which all groups ask, answers with a quorum. A
group that is killed is left out from the next step on, and the others take its share of the examples; when it comes
back, it takes over their state and goes on with them. Nobody restarts but the one that was lost.

Of torchft this uses quorums, process groups that are made anew for each, and the vote whether a step counts. Its data
loader, which loses samples, and the way it sends states, which pickles, are not used: shares are cut by who is there
(llama3.training.replicas), and states are sent as JSON and plain tensors.
"""

from __future__ import annotations

from torch import nn

from llama3.errors import ConfigError
from llama3.parallelism import (
    Cost,
    Dims,
    ModelConfig,
    ParallelContext,
    ParallelStrategy,
    Problem,
    Replicas,
    StepShape,
    local,
)
from llama3_plugins.parallelism.collectives import sum_together
from llama3_plugins.parallelism.options import TorchftOptions
from llama3_plugins.parallelism.quorum import Quorum

IN_ONE_LAUNCH = ConfigError.declare(
    "L3-PAR-023",
    "the {ranks} processes of this run along dp cannot be replica groups",
    why="a replica group is a run of its own, so that it can end and begin by itself",
    fix="start as many runs, each with a name of its own and with tp x cp x pp processes",
)


class Torchft(ParallelStrategy):
    """Beside tp, cp and pp, which cut a group's model: each of its ranks sums with those that stand where it does."""

    def __init__(self, options: TorchftOptions) -> None:
        self.options = options

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        return [] if dims.dp == 1 else [IN_ONE_LAUNCH.problem("parallelism.dp", ranks=dims.dp)]

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """As of one group alone: how many there are is not known before."""
        return Cost()

    def replicas(self, context: ParallelContext) -> Replicas:
        return Quorum(self.options, context)

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        if context.replicas is not None and context.replicas.count > 1:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            sum_together([local(gradient) for gradient in gradients], context.replicas.all_reduce)
