"""Polyak averaging: the mean of checkpoints taken during the last phase is the final model (paper 3.4.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama3.training.parts import StoredTensors
from llama3.training.state import read_like


def snapshot_steps(start: int, steps: int, count: int) -> frozenset[int]:
    """Numbers of finished steps at which weights enter the mean: the ends of `count` equal parts of a phase.

    The phase covers the steps `start + 1 ..= start + steps`; the last of them is always one.
    """
    count = min(count, steps)
    return frozenset(start + -(-steps * part // count) for part in range(1, count + 1))


class WeightAverage:
    """Running sum of weights in fp32, on the parameters' device and with their sharding."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the model's weights to the mean."""
        for name, parameter in model.named_parameters():
            if name in self.sums:
                self.sums[name] += parameter.float()
            else:
                self.sums[name] = parameter.detach().float().clone()
        self.count += 1

    def load(self, model: nn.Module, sums: StoredTensors, count: int) -> None:
        """Take back what was saved of the parameters held here."""
        parameters = model.named_parameters()
        self.sums = {name: read_like(parameter, sums, name) for name, parameter in parameters if name in sums}
        self.count = count

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Replace the model's weights by the mean. Does nothing before the first `add`."""
        if self.count:
            for name, parameter in model.named_parameters():
                parameter.copy_(self.sums[name] / self.count)
