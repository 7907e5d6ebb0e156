"""Throwaway strategies of a test distribution, written against the public seam only: tensor parallelism by hand, and a
pipeline that computes one microbatch after another."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor

from llama3.errors import Problem
from llama3.plugins import ParallelSpec, hookimpl
from llama3.training.parallel import ParallelStrategy


@hookimpl
def llama3_parallel_strategies():
    return [
        ParallelSpec(name="toy_tensor", factory="toy_strategies:ToyTensor", axis="tp"),
        ParallelSpec(name="toy_pipeline", factory="toy_strategies:ToyPipeline", axis="pp"),
    ]


class ToyTensor(ParallelStrategy):
    """Whole key-value heads and whole pairs of gate and up on each rank."""

    def check(self, model, dims):
        if model.n_kv_heads % dims.tp:
            return [Problem("TOY-001", "parallelism.tp", f"{dims.tp} ranks cannot share {model.n_kv_heads} heads")]
        return []

    def apply(self, model, context):
        mesh = context.mesh["tp"]
        for block in model.layers.values():
            for name, axis in (("attention.qkv", 0), ("attention.out", 1), ("ffn.gate_up", 0), ("ffn.down", 1)):
                whole = block.get_submodule(name).weight.data
                shard = distribute_tensor(whole, mesh, [Shard(axis)], src_data_rank=None)
                block.set_submodule(name, (Column, Row)[axis](shard, mesh.get_group()))


class Sharded(nn.Module):
    def __init__(self, weight, group):
        super().__init__()
        self.weight, self.group = nn.Parameter(weight), group


class Column(Sharded):
    def forward(self, x):
        return F.linear(_Copy.apply(x, self.group), self.weight.to_local())


class Row(Sharded):
    def forward(self, x):
        return _Sum.apply(F.linear(x, self.weight.to_local()), self.group)


class _Copy(torch.autograd.Function):
    """The same on all ranks; their gradients are added."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _Sum(torch.autograd.Function):
    """The sum over ranks; the gradient is the same on all."""

    @staticmethod
    def forward(ctx, x, group):
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class ToyPipeline(ParallelStrategy):
    """Consecutive layers on each rank."""

    def apply(self, model, context):
        stage, stages = context.mesh.get_local_rank("pp"), context.dims.pp
        share = model.config.n_layers // stages
        for name in list(model.layers):
            if int(name) // share != stage:
                del model.layers[name]
        if stage > 0:
            model.embed = None
        if stage < stages - 1:
            model.norm = model.lm_head = None

    def runner(self, model, context):
        return ToyRunner(context, model.config.dim)


class ToyRunner:
    """All forwards, then all backwards."""

    def __init__(self, context, dim):
        self.group, self.dim = context.mesh.get_group("pp"), dim
        self.stage, self.last = context.mesh.get_local_rank("pp"), context.dims.pp - 1

    def forward_backward(self, microbatches, loss):
        done = [self._forward(microbatch, loss) for microbatch in microbatches]
        for x_TD, y in done:
            y.backward(None if self.stage == self.last else self._receive(self.stage + 1))
            if x_TD is not None:
                self._send(x_TD.grad, self.stage - 1)

    def forward(self, microbatches, read):
        return [self._from_last(self._forward(microbatch, read)[1]) for microbatch in microbatches]

    def _forward(self, microbatch, stage):
        x_TD = self._receive(self.stage - 1).requires_grad_() if self.stage > 0 else None
        y = stage(microbatch, x_TD)
        if self.stage < self.last:
            self._send(y.detach(), self.stage + 1)
        return x_TD, y

    def _from_last(self, y):
        """Columns of the last stage: here always one, of numbers."""
        (column,) = (y[0],) if self.stage == self.last else (None,)
        size = torch.tensor([len(column) if column is not None else 0])
        dist.broadcast(size, group_src=self.last, group=self.group)
        column = torch.empty(int(size)) if column is None else column
        dist.broadcast(column, group_src=self.last, group=self.group)
        return (column,)

    def _send(self, x_TD, stage):
        dist.send(torch.tensor([len(x_TD)]), group_dst=stage, group=self.group)
        dist.send(x_TD.contiguous(), group_dst=stage, group=self.group)

    def _receive(self, stage):
        size = torch.empty(1, dtype=torch.int64)
        dist.recv(size, group_src=stage, group=self.group)
        x_TD = torch.empty(int(size), self.dim)
        dist.recv(x_TD, group_src=stage, group=self.group)
        return x_TD
