"""Context parallelism by exchanging heads (DeepSpeed-Ulysses, Jacobs et al. 2023).

A rank computes consecutive rows of a forest. Before each attention the ranks exchange their rows of all heads for all
rows of some heads, so that attention itself knows nothing of ranks; after it they exchange them back.

Legend: T tokens of a forest, t those of a rank, K key-value heads, k those of a rank, G query heads per key-value head,
C channels.
"""

from functools import partial

import torch
import torch.distributed as dist

from llama3.parallelism import CutRows, ParallelStrategy, Problem, forest_attention


class Ulysses(ParallelStrategy):
    """As many ranks as divide the key-value heads."""

    def check(self, model, dims):
        heads = model.n_kv_heads // dims.tp
        if heads % dims.cp == 0:
            return []
        what = f"{dims.cp} ranks cannot share {heads} key-value heads evenly"
        return [Problem("ULY-001", "parallelism.cp", what, fix="choose a size that divides them")]

    def apply(self, model, context):
        if context.mesh is not None and context.dims.cp > 1:
            group, rank, ranks = context.axis("cp")
            model.multiple *= ranks
            model.rows = partial(consecutive_rows, group, rank, ranks)


def consecutive_rows(group, rank, ranks, forest):
    own_t = torch.arange(forest.num_tokens, device=forest.tokens_T.device).chunk(ranks)[rank]
    return CutRows(forest, own_t, SomeHeads(forest_attention(forest), group), group)


class SomeHeads:
    """Attention of a rank's heads over the whole forest."""

    def __init__(self, attention, group):
        self.attention, self.group = attention, group

    def attend(self, layer, q_tKGC, k_tKC, v_tKC):
        qkv_tKGC = torch.cat([q_tKGC, k_tKC[:, :, None], v_tKC[:, :, None]], dim=2)
        qkv_TkGC = ToHeads.apply(qkv_tKGC, self.group)
        o_TkGC = self.attention.attend(layer, qkv_TkGC[:, :, :-2], qkv_TkGC[:, :, -2], qkv_TkGC[:, :, -1])
        return ToRows.apply(o_TkGC, self.group)


def to_heads(x_tK, group):
    """All rows of a rank's heads, from its rows of all heads."""
    parts = x_tK.unflatten(1, (dist.get_world_size(group), -1)).movedim(1, 0).contiguous()
    return exchanged(parts, group).flatten(0, 1)


def to_rows(x_Tk, group):
    """A rank's rows of all heads, from all rows of its heads."""
    parts = x_Tk.unflatten(0, (dist.get_world_size(group), -1)).contiguous()
    return exchanged(parts, group).movedim(0, 1).flatten(1, 2)


def exchanged(parts, group):
    """Part i goes to rank i; what comes stands in the order of the ranks."""
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received


class ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_tK, group):
        ctx.group = group
        return to_heads(x_tK, group)

    @staticmethod
    def backward(ctx, grad_Tk):
        return to_rows(grad_Tk, ctx.group), None


class ToRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_Tk, group):
        ctx.group = group
        return to_rows(x_Tk, group)

    @staticmethod
    def backward(ctx, grad_tK):
        return to_heads(grad_tK, ctx.group), None
