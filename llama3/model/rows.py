"""Which rows of a forest this process computes: all, unless a strategy cuts sequences over ranks (context parallelism).

Legend: T tokens, t those of a rank, N tokens that are read, H of these those whose rows stand here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama3.model.attention import Attention, forest_attention
from llama3.model.batch import Batch


class ForestRows:
    """All rows of a forest, in its order. A strategy that cuts sequences gives a model a subclass (`model.rows`)."""

    tokens_T: Tensor
    """Ids of the tokens that are computed here."""
    positions_T: Tensor
    attention: Attention
    """Attends their queries to whatever of the whole forest they see."""

    def __init__(self, forest: Batch) -> None:
        self.tokens_T, self.positions_T = forest.tokens_T, forest.positions_T
        self.attention = forest_attention(forest)

    def held(self, read_N: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tokens `read_N` of the forest: which of N have their rows here, and the number of each one's row."""
        return torch.arange(len(read_N), device=read_N.device), read_N

    def joined(self, column_H: Tensor, held_H: Tensor, count: int) -> Tensor:
        """The column of all N (`count`) tokens, from its values at those held here. Differentiable: whoever calls it
        computes the same with the result on every rank that shares the forest."""
        return column_H


class CutRows(ForestRows):
    """A rank's rows of a forest, where each row stands on one rank of a group."""

    def __init__(self, forest: Batch, own_t: Tensor, attention: Attention, group: dist.ProcessGroup) -> None:
        """own_t: the numbers of this rank's rows; attention: is given the queries, keys and values of these."""
        self.tokens_T, self.positions_T = forest.tokens_T[own_t], forest.positions_T[own_t]
        self.attention, self._group = attention, group
        self._row_T = torch.full_like(forest.tokens_T, -1)
        self._row_T[own_t] = torch.arange(len(own_t), device=own_t.device)

    def held(self, read_N: Tensor) -> tuple[Tensor, Tensor]:
        row_N = self._row_T[read_N]
        held_H = (row_N >= 0).nonzero().squeeze(-1)
        return held_H, row_N[held_H]

    def joined(self, column_H: Tensor, held_H: Tensor, count: int) -> Tensor:
        return _Join.apply(column_H, held_H, count, self._group)


class _Join(torch.autograd.Function):
    """Values that each stand on one rank, put together on all. What all then compute with them is the same, so that
    each takes its own values' part of the gradient."""

    @staticmethod
    def forward(ctx: Any, column_H: Tensor, held_H: Tensor, count: int, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(held_H)
        column_N = column_H.new_zeros(count, *column_H.shape[1:])
        column_N[held_H] = column_H
        dist.all_reduce(column_N, group=group)
        return column_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (held_H,) = ctx.saved_tensors
        return grads[0][held_H], None, None, None


def padded(forest: Batch, multiple: int) -> Batch:
    """The forest with a multiple of so many tokens, at least once: a last root that nothing reads fills it up."""
    if multiple == 1:
        return forest
    missing = max(-(-forest.num_tokens // multiple), 1) * multiple - forest.num_tokens
    if not missing:
        return forest
    new = forest.tokens_T.new_zeros
    return Batch(
        tokens_T=torch.cat([forest.tokens_T, new(missing)]),
        starts_S1=torch.cat([forest.starts_S1, forest.starts_S1[-1:] + missing]),
        parents_S=torch.cat([forest.parents_S, forest.parents_S.new_tensor([-1])]),
        targets_M=new(0),
    )
