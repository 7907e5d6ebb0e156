"""The metrics of one update, summed over microbatches and ranks on the device and read once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llama3.training.parallel import ParallelContext


class Meter:
    """Shares of an update's losses and metrics: each is added up to the figure of the whole update."""

    def __init__(self) -> None:
        self._losses: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, losses: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
        """The shares of one microbatch."""
        for sums, shares in ((self._losses, losses), (self._metrics, metrics)):
            for name, share in shares.items():
                sums[name] = sums.get(name, 0) + share.detach()

    def read(self, context: ParallelContext) -> dict[str, float]:
        """`loss`, `loss/<term>` where there are several, and the metrics, over all ranks. Every rank calls it."""
        named = {f"loss/{name}": loss for name, loss in self._losses.items()} | self._metrics
        values = torch.stack(list(named.values())).tolist() if named else []
        sums = context.sum_by_name(dict(zip(named, values, strict=True)))
        # Of a pipeline only the last stage has seen any loss.
        totals: dict[str, float] = next(row for row in context.gather(sums, "model") if row)
        losses = {name: total for name, total in totals.items() if name.startswith("loss/")}
        shown = losses if len(losses) > 1 else {}
        return {"loss": sum(losses.values()), **shown, **{n: t for n, t in totals.items() if n not in losses}}
