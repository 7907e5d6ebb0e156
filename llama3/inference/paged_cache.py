"""`PagedCache`: the keys and values of running sequences in blocks, and the attention that reads them.

The transformer calls `attend` (the `KVCache` protocol of llama3.model.attention): new keys and values are written to
the slots that the pool gave out, then the new tokens attend to them in one of two ways:

- On the CPU, sequences with few new tokens (those that are decoded) are attended to by the Rust core, which reads their
  blocks where they lie.
- Otherwise each sequence's blocks are gathered through its line of the block table and attended to. Plain torch, any
  device; the query group of GQA is folded into the query length, so that keys and values are never repeated.

Legend: T new tokens of all sequences; of a group of sequences that are attended together: B sequences, N new tokens
each (padded), X keys each (whole blocks), P blocks each; K key-value heads, G query heads per key-value head,
C channels per head.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from llama3 import _core
from llama3.inference.kv_pool import KvPool
from llama3.model.config import ModelConfig
from llama3.model.ops import as_array, is_of_core

Ints = npt.NDArray[np.int64]

FEW_TOKENS = 8
"""Up to so many new tokens of a sequence the core reads its blocks in place; elsewhere, their scores are a tensor of
their own."""
KEYS_TOGETHER = 255
"""Sequences up to this length are padded to each other; longer ones only up to the next power of two."""


@dataclass(frozen=True)
class _Places:
    """Where a group's queries stand among the T new tokens.

    queries: index in T of the B * N queries; padding repeats a sequence's last token
    real: which of them are no padding; targets: the index in T of those
    """

    queries: Tensor
    real: Tensor
    targets: Tensor


@dataclass(frozen=True)
class _Group:
    """B sequences attended together, padded to N new tokens and P blocks; `size` is (B, N).

    blocks: the blocks of each sequence, B * P of them
    hidden_BQX: which keys each query does not see; Q = G * N
    places: None if the queries are all T tokens in order, one of each sequence
    """

    size: tuple[int, int]
    blocks: Tensor
    hidden_BQX: Tensor
    places: _Places | None


@dataclass(frozen=True)
class _InPlace:
    """Tokens whose sequences' blocks the core reads where they lie: token i sees the first `seen[i]` keys of row
    `rows[i]`. `tokens`: which of the T new tokens they are, None if all in order."""

    rows: Ints
    seen: Ints
    tokens: Tensor | None


class PagedCache:
    """Keys and values of all blocks of a pool, [2, layers, K, blocks, block_size, C], and the plan of the next forward.

    `plan` says which tokens of which rows come next; every layer's `attend` then follows it.
    """

    def __init__(self, config: ModelConfig, pool: KvPool, *, dtype: torch.dtype, device: torch.device) -> None:
        self.pool = pool
        self.group = config.n_heads // config.n_kv_heads
        shape = (2, config.n_layers, config.n_kv_heads, pool.num_blocks, pool.block_size, config.head_dim)
        self.kv = _zeros(shape, dtype, device)
        self._few_tokens = FEW_TOKENS if is_of_core(self.kv) else 0
        self._in_place: _InPlace | None = None
        self._groups: list[_Group] = []
        self._slots_T = torch.empty(0, dtype=torch.int64)

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block over all layers."""
        return 2 * config.n_layers * block_size * config.n_kv_heads * config.head_dim * dtype.itemsize

    def plan(self, rows: Ints, starts: Ints, ends: Ints) -> Tensor:
        """The next forward computes the tokens `starts[i]` to `ends[i]` (exclusive) of row `rows[i]`, back to back;
        those before are in the cache. Copies the blocks that forks have to own first. Returns the positions, int64[T].
        """
        self._copy_blocks()
        positions_T = _ranges(starts, ends)
        row_T = np.repeat(rows, ends - starts)
        size = self.pool.block_size
        slots_T = self.pool.block_table[row_T, positions_T // size].astype(np.int64) * size + positions_T % size
        self._slots_T = self._tensor(slots_T)
        new = ends - starts
        few = new <= self._few_tokens
        self._in_place = self._plan_in_place(row_T, positions_T, np.repeat(few, new))
        self._groups = self._plan_groups(rows, ends, new, np.flatnonzero(~few))
        return self._tensor(positions_T)

    @property
    def in_place(self) -> _InPlace | None:
        """The plan, if the core reads the blocks of all new tokens where they lie."""
        whole = self._in_place is not None and self._in_place.tokens is None
        return self._in_place if whole else None

    @property
    def slots(self) -> Ints:
        """Where the plan puts the keys and values of each new token, block * block_size + offset."""
        slots: Ints = self._slots_T.numpy()
        return slots

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Stores the new keys and values, then attends each new token to its sequence up to itself."""
        keys, values = self.kv[0, layer], self.kv[1, layer]
        for cache, new in ((keys, k_TKC), (values, v_TKC)):
            cache.flatten(1, 2).index_copy_(1, self._slots_T, new.transpose(0, 1).to(cache.dtype))
        q_TKGC = q_TKGC.to(keys.dtype)
        o_TKGC = torch.empty_like(q_TKGC, memory_format=torch.contiguous_format)
        if self._in_place is not None:
            self._attend_in_place(self._in_place, q_TKGC, keys, values, o_TKGC)
        for group in self._groups:
            if group.places is None:
                return _attend(group, q_TKGC, keys, values)
            o = _attend(group, q_TKGC.index_select(0, group.places.queries), keys, values)
            o_TKGC.index_copy_(0, group.places.targets, o.index_select(0, group.places.real))
        return o_TKGC

    def _attend_in_place(self, plan: _InPlace, q_TKGC: Tensor, keys: Tensor, values: Tensor, o_TKGC: Tensor) -> None:
        q = q_TKGC if plan.tokens is None else q_TKGC.index_select(0, plan.tokens)
        o = o_TKGC if plan.tokens is None else torch.empty_like(q)
        arrays = as_array(q), as_array(keys), as_array(values)
        _core.paged_attention(*arrays, self.pool.block_table, plan.rows, plan.seen, as_array(o))
        if plan.tokens is not None:
            o_TKGC.index_copy_(0, plan.tokens, o)

    def wipe(self) -> None:
        """Zero all keys and values: what a failed forward left behind may not be a number."""
        self.kv.zero_()

    def _plan_in_place(self, row_T: Ints, positions_T: Ints, few_T: npt.NDArray[np.bool_]) -> _InPlace | None:
        if not few_T.any():
            return None
        tokens = None if few_T.all() else self._tensor(np.flatnonzero(few_T))
        return _InPlace(row_T[few_T], positions_T[few_T] + 1, tokens)

    def _plan_groups(self, rows: Ints, lens: Ints, new: Ints, many: Ints) -> list[_Group]:
        """The sequences whose blocks are gathered, `many`: those of about equal numbers of new tokens and of keys are
        padded to the longest and attended together."""
        first = np.cumsum(new) - new
        members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in many.tolist():
            members[_padded(int(new[index])), max(KEYS_TOGETHER, int(lens[index]) - 1).bit_length()].append(index)
        if len(members) == 1 and (new == 1).all():
            return [self._group(rows, lens, new, None)]
        return [self._group(rows[chosen], lens[chosen], new[chosen], first[chosen]) for chosen in members.values()]

    def _group(self, rows: Ints, lens: Ints, new: Ints, first_B: Ints | None) -> _Group:
        """`first_B`: index in T of each sequence's first query, or None as in `_Group.places`."""
        blocks = -(-int(lens.max()) // self.pool.block_size)
        # 0, the null block, pads the shorter rows.
        blocks_BP = self.pool.block_table[rows, :blocks]
        within_N = np.arange(new.max())
        query_BN = np.minimum(within_N, new[:, None] - 1)
        position_BN = (lens - new)[:, None] + query_BN
        hidden_BNX = np.arange(blocks * self.pool.block_size) > position_BN[:, :, None]
        places = None
        if first_B is not None:
            queries = (first_B[:, None] + query_BN).reshape(-1)
            real = np.flatnonzero(within_N < new[:, None])
            places = _Places(self._tensor(queries), self._tensor(real), self._tensor(queries[real]))
        return _Group(
            size=(len(rows), len(within_N)),
            blocks=self._tensor(blocks_BP.reshape(-1)),
            hidden_BQX=self._tensor(np.tile(hidden_BNX, (1, self.group, 1))),
            places=places,
        )

    def _copy_blocks(self) -> None:
        pairs = self.pool.take_copies()
        if len(pairs):
            source, target = self._tensor(pairs.astype(np.int64)).unbind(1)
            # Indexing reads all sources before any target is written.
            self.kv[:, :, :, target] = self.kv[:, :, :, source]

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.kv.device)


def _attend(group: _Group, q_FKGC: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """F = B * N queries over their sequences' blocks -> o_FKGC."""
    queries, key_heads, group_size, channels = q_FKGC.shape
    batch, new = group.size
    q_KBQC = q_FKGC.view(batch, new, key_heads, group_size, channels).permute(2, 0, 3, 1, 4).flatten(2, 3)
    # index_select copies whole blocks, several times faster than indexing.
    k_KBXC, v_KBXC = (
        x.flatten(2).index_select(1, group.blocks).view(key_heads, batch, -1, channels) for x in (keys, values)
    )
    attend = _attend_products if new <= FEW_TOKENS else _attend_fused
    o_KBQC = attend(q_KBQC, k_KBXC, v_KBXC, group.hidden_BQX)
    o_BNKGC = o_KBQC.unflatten(2, (group_size, new)).permute(1, 3, 0, 2, 4)
    return o_BNKGC.reshape(queries, key_heads, group_size, channels)


def _attend_products(q_KBQC: Tensor, k_KBXC: Tensor, v_KBXC: Tensor, hidden_BQX: Tensor) -> Tensor:
    """As three plain operations: for a few queries a third of the time of the fused one."""
    q, k, v = (x.flatten(0, 1) for x in (q_KBQC * q_KBQC.shape[-1] ** -0.5, k_KBXC, v_KBXC))
    scores_KBQX = torch.bmm(q, k.transpose(1, 2)).unflatten(0, q_KBQC.shape[:2])
    p = scores_KBQX.masked_fill_(hidden_BQX, float("-inf")).softmax(-1).flatten(0, 1)
    return torch.bmm(p, v).view_as(q_KBQC)


def _attend_fused(q_KBQC: Tensor, k_KBXC: Tensor, v_KBXC: Tensor, hidden_BQX: Tensor) -> Tensor:
    """For a long prompt, whose scores would not fit in memory."""
    return F.scaled_dot_product_attention(q_KBQC, k_KBXC, v_KBXC, attn_mask=~hidden_BQX)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because a weight of 0 on a value that is not a number would still spoil a sum. On the CPU they are
    memory that the system supplies when it is first written, so a large cache costs nothing before it is used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _padded(length: int) -> int:
    """1, or rounded up by a third at most, so that few groups serve many lengths."""
    step = 8 if length <= 32 else 1 << ((length - 1).bit_length() - 2)
    return 1 if length == 1 else -(-length // step) * step


def _ranges(starts: Ints, ends: Ints) -> Ints:
    """start, start + 1, ... end - 1 of each pair, back to back."""
    counts = ends - starts
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - starts, counts)
