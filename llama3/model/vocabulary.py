"""The vocabulary as it stands here: all of it, or a rank's part of it, where a strategy has cut the output matrix.

A distribution over a cut vocabulary never stands whole anywhere: ranks exchange a row's largest score, its sum and the
scores that are asked for.

Legend: N rows (targets), V vocabulary (of a cut one: what stands here), k tokens that are asked for.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


class Vocabulary:
    """All of it on this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        """Rows of the largest part: the same on all ranks."""

    @staticmethod
    def of(weight: Tensor) -> tuple[Vocabulary, Tensor]:
        """The vocabulary of an output matrix, and the rows of it that stand here."""
        if isinstance(weight, DTensor) and weight.placements[0].is_shard(0):
            return CutVocabulary(weight), weight.to_local()
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        return Vocabulary(len(local)), local

    def log_softmax(self, logits_NV: Tensor) -> Tensor:
        """In float32."""
        return torch.log_softmax(logits_NV, dim=-1, dtype=torch.float32)

    def softmax(self, logits_NV: Tensor) -> Tensor:
        """In float32."""
        return torch.softmax(logits_NV, dim=-1, dtype=torch.float32)

    def pick(self, x_NV: Tensor, ids_Nk: Tensor) -> Tensor:
        """x_Nk: the columns of the tokens `ids_Nk`."""
        return x_NV.gather(1, ids_Nk)

    def add_at(self, x_NV: Tensor, ids_Nk: Tensor, values_Nk: Tensor) -> None:
        """Add values to the columns of the tokens `ids_Nk`, in place."""
        x_NV.scatter_add_(1, ids_Nk, values_Nk)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all parts of the vocabulary of what each has."""
        return x

    def top(self, x_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest of each row, largest first, and their tokens: x_Nk, ids_Nk."""
        values_Nk, ids_Nk = x_NV.topk(k)
        return values_Nk, ids_Nk


class CutVocabulary(Vocabulary):
    """Consecutive parts on the ranks of a group, as DTensor cuts rows."""

    def __init__(self, weight: DTensor) -> None:
        self.group = weight.device_mesh.get_group(0)
        ranks = dist.get_world_size(self.group)
        super().__init__(math.ceil(weight.shape[0] / ranks))
        self.first = self.size * dist.get_rank(self.group)
        self.total = weight.shape[0]

    def log_softmax(self, logits_NV: Tensor) -> Tensor:
        x_NV = logits_NV.float()
        largest_N1 = x_NV.amax(-1, keepdim=True)
        dist.all_reduce(largest_N1, dist.ReduceOp.MAX, group=self.group)
        x_NV = x_NV - largest_N1
        return x_NV.sub_(self.sum(x_NV.exp().sum(-1, keepdim=True)).log_())

    def softmax(self, logits_NV: Tensor) -> Tensor:
        return self.log_softmax(logits_NV).exp_()

    def pick(self, x_NV: Tensor, ids_Nk: Tensor) -> Tensor:
        here_Nk, column_Nk = self._columns(x_NV, ids_Nk)
        return self.sum(x_NV.gather(1, column_Nk).masked_fill_(~here_Nk, 0))

    def add_at(self, x_NV: Tensor, ids_Nk: Tensor, values_Nk: Tensor) -> None:
        here_Nk, column_Nk = self._columns(x_NV, ids_Nk)
        x_NV.scatter_add_(1, column_Nk, values_Nk.masked_fill(~here_Nk, 0))

    def sum(self, x: Tensor) -> Tensor:
        dist.all_reduce(x, group=self.group)
        return x

    def top(self, x_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
        # The k best of a part may all be among the k best of all.
        values_Nk, ids_Nk = x_NV.topk(min(k, x_NV.shape[1]))
        missing = (0, k - values_Nk.shape[1])
        values_Nk = torch.nn.functional.pad(values_Nk, missing, value=-math.inf)
        ids_Nk = torch.nn.functional.pad(ids_Nk + self.first, missing)
        values = self._of_all(values_Nk)
        best_Nk = values.topk(k)
        return best_Nk.values, self._of_all(ids_Nk).gather(1, best_Nk.indices)

    def _columns(self, x_NV: Tensor, ids_Nk: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens stand here, and their columns (any column for others)."""
        column_Nk = ids_Nk - self.first
        here_Nk = (column_Nk >= 0) & (column_Nk < x_NV.shape[1])
        return here_Nk, column_Nk.clamp(0, x_NV.shape[1] - 1)

    def _of_all(self, x_Nk: Tensor) -> Tensor:
        """Those of all ranks side by side."""
        parts = [torch.empty_like(x_Nk) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, x_Nk.contiguous(), group=self.group)
        return torch.cat(parts, dim=1)
