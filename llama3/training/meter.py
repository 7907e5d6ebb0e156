"""The metrics of one update, summed over microbatches and ranks on the device and read once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llama3.model.score import Scored
from llama3.training.algorithm import Algorithm
from llama3.training.parallel import Microbatch, ParallelContext


class Meter:
    """`algorithm` None: nothing is logged, and nothing is computed."""

    def __init__(self, algorithm: Algorithm | None) -> None:
        self._algorithm = algorithm
        self._losses: dict[str, Tensor] = {}
        self._means: dict[str, Tensor] = {}
        self._weight = 0

    @torch.no_grad()
    def add(self, losses: Mapping[str, Tensor], scored: Scored, microbatch: Microbatch) -> None:
        """`losses` are shares of the update's loss by term; the algorithm's own metrics are means over targets."""
        if self._algorithm is None:
            return
        weight = max(microbatch.batch.num_targets, 1) if microbatch.live else 0
        self._weight += weight
        for name, loss in losses.items():
            self._losses[name] = self._losses.get(name, 0) + loss.detach()
        for name, mean in self._algorithm.metrics(scored, microbatch.batch).items():
            self._means[name] = self._means.get(name, 0) + mean.detach() * weight

    def read(self, context: ParallelContext) -> dict[str, float]:
        """`loss`, `loss/<term>` where there are several, and the algorithm's metrics, over all ranks."""
        if self._algorithm is None:
            return {}
        names = [*self._losses, *self._means]
        values = torch.stack([*self._losses.values(), *self._means.values()]).double().tolist()
        *values, weight = context.reduce([*values, self._weight], "sum")
        read = dict(zip(names, values, strict=True))
        losses = {f"loss/{name}": read[name] for name in self._losses}
        means = {name: read[name] / max(weight, 1.0) for name in self._means}
        return {"loss": sum(losses.values()), **(losses if len(losses) > 1 else {}), **means}
