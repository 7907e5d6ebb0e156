"""`Shard`: one rank's part of a model that generates: its layers, its heads, its part of the vocabulary and its part of
the KV cache.

A strategy has cut the model (llama3.training.parallel). What it expects of a forward holds here too: tokens are padded
to a multiple of `model.multiple`, which the cache never sees, and a stage of a pipeline computes with the hidden states
of the one before.

Legend: T new tokens, t rows that a rank has between the layers, B sequences, P blocks of a sequence, D model dim,
V vocabulary, K key-value heads, G query heads per key-value head, C channels per head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from llama3.config.serving import KvDtype
from llama3.inference.kv_codes import codes_of
from llama3.inference.paged_attention import to_device
from llama3.inference.paged_cache import PagedCache
from llama3.model.transformer import Transformer
from llama3.model.vocabulary import CutVocabulary, Vocabulary

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class RankAxis:
    """The ranks along one axis of a mesh, and this one's place among them. There is no group of one."""

    group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1


class BlockLines:
    """Stands for a pool in the cache of a rank: the lines of the block table that a forward reads, and the copies that
    go before it, as the rank that keeps account of the blocks has told them."""

    def __init__(self, num_blocks: int, block_size: int, max_blocks: int) -> None:
        self.num_blocks, self.block_size, self.max_blocks = num_blocks, block_size, max_blocks
        self.block_table: Numbers = np.zeros((0, max_blocks), np.int32)
        self._copies: Numbers = np.zeros((0, 2), np.int32)

    def follow(self, table_BP: Numbers, copies: Numbers) -> None:
        """What the next forward needs."""
        self.block_table, self._copies = table_BP, copies

    def take_copies(self) -> Numbers:
        """Pairs (from, to) of blocks, once."""
        copies, self._copies = self._copies, self._copies[:0]
        return copies


@dataclass(frozen=True)
class StepNumbers:
    """What all ranks are told of a forward: the tokens, where each of B sequences begins and ends among its own, its
    blocks, copies of blocks that go before, the places that are scored and those whose hidden states are shown."""

    tokens_T: Numbers
    starts_B: Numbers
    ends_B: Numbers
    table_BP: Numbers
    copies: Numbers
    scored_R: Numbers
    shown_S: Numbers

    def arrays(self) -> list[Numbers]:
        """As flat arrays."""
        fields = (self.tokens_T, self.starts_B, self.ends_B, self.table_BP, self.copies, self.scored_R, self.shown_S)
        return [field.ravel() for field in fields]

    @classmethod
    def of_arrays(cls, arrays: list[Numbers]) -> StepNumbers:
        """From `arrays`."""
        tokens_T, starts_B, ends_B, table, copies, scored_R, shown_S = arrays
        return cls(
            tokens_T, starts_B, ends_B, table.reshape(len(starts_B), -1), copies.reshape(-1, 2), scored_R, shown_S
        )


class Shard:
    """A rank's part of a model, with its part of the cache once there is one.

    tp: the ranks that share each matrix; pp: the ranks that share the layers
    """

    def __init__(self, model: Transformer, tp: RankAxis, pp: RankAxis) -> None:
        self.model, self.tp, self.pp = model, tp, pp
        self.places = {int(name): place for place, name in enumerate(model.layers)}
        """Of each layer that is here, its place in the cache."""
        config = model.config
        self.kept = replace(
            config,
            n_layers=max(1, len(self.places)),
            n_heads=config.n_heads // tp.size,
            n_kv_heads=config.n_kv_heads // tp.size,
        )
        """Heads and layers as the cache has them here."""
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.chunks = 1 if model.chunks is None else len(model.chunks)

    @property
    def is_first(self) -> bool:
        """Whether the model's first layers are here."""
        return self.pp.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether the last ones and the output matrix are."""
        return self.pp.rank == self.pp.size - 1

    def make_cache(self, lines: BlockLines, kv_dtype: KvDtype) -> PagedCache:
        """An empty cache, in place of the one before."""
        self.lines = lines
        self.cache = PagedCache(self.kept, lines, dtype=self.dtype, device=self.device, codes=codes_of(kv_dtype))
        return self.cache

    def rows(self, tokens: int) -> int:
        """Rows of hidden states that a rank has of so many tokens between the layers."""
        return -(-tokens // self.model.multiple)

    def stages(self, step: StepNumbers) -> Iterator[_Stage]:
        """What this rank computes of a forward, stage by stage. Copies are made and the cache is planned first."""
        self.lines.follow(step.table_BP, step.copies)
        rows_B = np.arange(len(step.starts_B), dtype=np.int64)
        positions_T = self.cache.plan(rows_B, step.starts_B.astype(np.int64), step.ends_B.astype(np.int64))
        tokens_T = to_device(step.tokens_T.astype(np.int64), positions_T.device)
        padding = -len(tokens_T) % self.model.multiple
        tokens_T, positions_T = (F.pad(x_T, (0, padding)) for x_T in (tokens_T, positions_T))
        for chunk in range(self.chunks):
            yield _Stage(self, tokens_T, positions_T, len(step.tokens_T), chunk)

    def scores(self, h_ND: Tensor) -> Tensor | None:
        """logits_NV of final hidden states, on the first rank of the last stage; the others give their parts."""
        vocabulary, weight_VD = Vocabulary.of(self.model.lm_head.weight)
        if not isinstance(vocabulary, CutVocabulary):
            return self.model.logits(h_ND) if self.tp.rank == 0 else None
        part_NV = F.linear(h_ND, weight_VD)
        part_NV = F.pad(part_NV, (0, vocabulary.size - part_NV.shape[1])).contiguous()
        parts = [torch.empty_like(part_NV) for _ in range(self.tp.size)] if self.tp.rank == 0 else None
        dist.gather(part_NV, parts, group=self.tp.group, group_dst=0)
        return None if parts is None else torch.cat(parts, dim=1)[:, : self.model.config.vocab_size]


@dataclass(frozen=True)
class _Stage:
    """One stage of one forward. Is the attention of its layers: the cache knows neither padding nor other layers."""

    shard: Shard
    tokens_T: Tensor
    positions_T: Tensor
    count: int
    chunk: int

    @property
    def is_first(self) -> bool:
        """Whether no stage comes before it."""
        return self.shard.is_first and self.chunk == 0

    @property
    def is_last(self) -> bool:
        """Whether none comes after it."""
        return self.shard.is_last and self.chunk == self.shard.chunks - 1

    def compute(self, x_tD: Tensor | None) -> Tensor:
        """The hidden states for the next stage, or the final ones of all tokens."""
        h = self.shard.model.step(self.tokens_T, self.positions_T, self, x_tD, self.chunk)
        return h[: self.count] if self.is_last else h

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Of the tokens that are no padding; that has zeros."""
        new = slice(self.count)
        o_TKGC = self.shard.cache.attend(self.shard.places[layer], q_TKGC[new], k_TKC[new], v_TKC[new])
        padding = len(q_TKGC) - self.count
        return F.pad(o_TKGC, (0, 0) * 3 + (0, padding)) if padding else o_TKGC
