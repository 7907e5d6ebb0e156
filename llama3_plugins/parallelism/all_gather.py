"""Context parallelism as Llama 3 does it (paper 3.3.2): sequences cut over `cp`, keys and values gathered.

A forest is cut into 2 x cp chunks; rank r computes chunks r and 2 x cp - 1 - r, so that causal attention is about
equal work for all. Keys and values of all ranks are gathered before each attention, which then sees whatever the forest
says: documents, prompts with their answers, deeper trees.

Legend: T tokens of a forest, t those of a rank, K key-value heads, G query heads per key-value head, C channels.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama3.parallelism import (
    Attention,
    Batch,
    Cost,
    CutRows,
    Dims,
    ModelConfig,
    ParallelContext,
    ParallelStrategy,
    StepShape,
    Transformer,
    forest_attention,
)
from llama3_plugins.parallelism.collectives import gather_rows


class AllGather(ParallelStrategy):
    """Any sequence: forests are padded to a multiple of 2 x cp tokens."""

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """A rank has its share of the rows, and keys and values of all. These are gathered once forward, and once more
        where blocks are computed again; their gradients go back the same way."""
        ranks, away = dims.cp, 1 - 1 / dims.cp
        exchanges = step.microbatches * (3 if step.recompute == "full" else 2) * model.n_layers / dims.pp
        keys = step.tokens * 2 * model.n_kv_heads * model.head_dim / dims.tp * step.width
        # With other ranks along dp the gradients are summed by what supplies that axis.
        gradients = 8 * model.num_params() / (dims.tp * dims.pp) if dims.dp == 1 else 0
        return Cost(
            work=1 / ranks,
            rows=1 / ranks,
            inputs=1 / ranks,
            channels=1 / ranks,
            logits=1 / ranks,
            sent=away * (exchanges * keys + gradients),
            messages=exchanges * (ranks > 1),
        )

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None or context.dims.cp == 1:
            return
        assert isinstance(model, Transformer)
        group, rank, ranks = context.axis("cp")
        model.multiple *= 2 * ranks
        model.rows = partial(HeadTailRows, group=group, rank=rank, ranks=ranks)


class HeadTailRows(CutRows):
    """A rank's two chunks of a forest."""

    def __init__(self, forest: Batch, *, group: dist.ProcessGroup, rank: int, ranks: int) -> None:
        chunks = torch.arange(forest.num_tokens, device=forest.tokens_T.device).chunk(2 * ranks)
        of_ranks = [torch.cat([chunks[r], chunks[2 * ranks - 1 - r]]) for r in range(ranks)]
        own_t, natural_T = of_ranks[rank], torch.cat(of_ranks).argsort()
        super().__init__(forest, own_t, _GatheredKeys(forest_attention(forest, own_t), natural_T, group), group)


class _GatheredKeys:
    """An attention that is given the keys and values of this rank's rows, and sees those of all."""

    def __init__(self, attention: Attention, natural_T: Tensor, group: dist.ProcessGroup) -> None:
        """natural_T: where the tokens of the forest, in its order, stand among the gathered rows."""
        self._attention, self._natural_T, self._group = attention, natural_T, group

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        both = gather_rows(torch.stack([k_TKC, v_TKC], dim=1), self._group)[self._natural_T]
        return self._attention.attend(layer, q_TKGC, both[:, 0], both[:, 1])
