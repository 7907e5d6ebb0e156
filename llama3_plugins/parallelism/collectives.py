"""Collectives along the rows of a tensor that gradients go back through, and the sum of many tensors at once.

Legend: T all rows of a group's ranks, t a rank's share of them, in the order of the ranks; D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
MESSAGE = 1 << 25
"""Bytes: large enough that its latency does not count, small beside the gradients of a model that needs it."""


def gather_rows(x_tD: Tensor, group: Group) -> Tensor:
    """x_TD, for ranks that each do other work with it: a row's gradient is the sum of theirs."""
    return _Gather.apply(x_tD, group)


def gather_same(x_tD: Tensor, group: Group) -> Tensor:
    """x_TD, for ranks that all do the same work with it: a row's gradient is that of any of them."""
    return _GatherSame.apply(x_tD, group)


def scatter_sums(x_TD: Tensor, group: Group) -> Tensor:
    """A rank's rows x_tD of the sum of what all have."""
    return _Scatter.apply(x_TD, group)


def same_on_all(weight: Tensor, group: Group) -> Tensor:
    """A weight that all ranks have, each of which computes other rows with it: its gradient is the sum of theirs."""
    return _SumGradient.apply(weight, group)


def sum_together(tensors: Iterable[Tensor], all_reduce: Callable[[Tensor], object]) -> None:
    """Replace tensors by their sums over ranks, a message of about MESSAGE bytes at a time, which `all_reduce` adds up
    in place. All ranks give the same shapes in the same order."""
    for bucket in _buckets(tensors):
        message = torch.cat([tensor.flatten() for tensor in bucket])
        all_reduce(message)
        for tensor, total in zip(bucket, message.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(total.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype that follow each other, closed by the one that fills a message."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.nbytes for each in bucket) >= MESSAGE
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _gathered(x_tD: Tensor, group: Group) -> Tensor:
    x_TD = x_tD.new_empty(len(x_tD) * dist.get_world_size(group), *x_tD.shape[1:])
    dist.all_gather_into_tensor(x_TD, x_tD.contiguous(), group=group)
    return x_TD


def _scattered(x_TD: Tensor, group: Group) -> Tensor:
    x_tD = x_TD.new_empty(len(x_TD) // dist.get_world_size(group), *x_TD.shape[1:])
    dist.reduce_scatter_tensor(x_tD, x_TD.contiguous(), group=group)
    return x_tD


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_tD: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _gathered(x_tD, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _scattered(grads[0], ctx.group), None


class _GatherSame(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_tD: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _gathered(x_tD, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ranks = dist.get_world_size(ctx.group)
        return grads[0].unflatten(0, (ranks, -1))[dist.get_rank(ctx.group)], None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _scattered(x_TD, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _gathered(grads[0], ctx.group), None


class _SumGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
