"""`PagedCache`: the keys and values of running sequences in blocks, and the attention that reads them.

The transformer calls `attend` (the `KVCache` protocol of llama3.model.attention): new keys and values are written to
the slots that the pool gave out, then the new tokens attend to them in one of two ways:

- Where something reads blocks in place, it does (see paged_attention.py): the Rust core on a CPU and a Triton kernel on
  a GPU for sequences with few new tokens (those that are decoded), torch's varlen attention for prompts on a GPU.
- Otherwise each sequence's blocks are gathered through its line of the block table and attended to. Plain torch, any
  device; the query group of GQA is folded into the query length, so that keys and values are never repeated.

A cache may hold codes with scales instead of numbers (llama3.inference.kv_codes). The core reads them as they are; what
is gathered becomes numbers again.

Legend: T new tokens of all sequences; of a group of sequences that are attended together: B sequences, N new tokens
each (padded), X keys each (whole blocks), P blocks each; K key-value heads, G query heads per key-value head,
C channels per head; S slots of the cache, a block's behind each other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.inference.kv_codes import KvCodes
from llama3.inference.paged_attention import CoreReads, Ints, Reads, Way, ranges, reads, taken, to_device
from llama3.model.config import ModelConfig

FEW_TOKENS = 8
"""Up to so many new tokens of a sequence are few: its blocks are read in place, one query at a time; where they are
gathered, the scores are a tensor of their own."""
QUERIES_TOGETHER = 256
"""New tokens of a sequence that are attended together where blocks are gathered."""
KEYS_TOGETHER = 255
"""Sequences up to this length are padded to each other; longer ones only up to the next power of two."""


class BlockTable(Protocol):
    """What a cache asks of whoever keeps account of its blocks: `KvPool`, or what stands for one on another rank."""

    num_blocks: int
    block_size: int
    max_blocks: int

    @property
    def block_table(self) -> npt.NDArray[np.int32]:
        """Block ids of each row."""
        ...

    def take_copies(self) -> npt.NDArray[np.int32]:
        """Pairs (from, to) of blocks that are copied before the next forward."""
        ...


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
    """Tokens whose sequences' blocks are read where they lie. `tokens`: which of the T new tokens they are, None if all
    in order."""

    reads: Reads
    tokens: Tensor | None


class PagedCache:
    """Keys and values of all blocks of a pool, [2, layers, K, blocks, block_size, C], and the plan of the next forward.

    dtype: of computation, and of what is stored unless as codes, whose scales are [2, layers, K, blocks, block_size]

    `plan` says which tokens of which rows come next; every layer's `attend` then follows it.
    """

    def __init__(
        self,
        config: ModelConfig,
        pool: BlockTable,
        *,
        dtype: torch.dtype,
        device: torch.device,
        attention: Way | None = None,
        codes: KvCodes | None = None,
    ) -> None:
        self.pool = pool
        self.dtype = dtype
        self.codes = codes
        self.group = config.n_heads // config.n_kv_heads
        shape = (2, config.n_layers, config.n_kv_heads, pool.num_blocks, pool.block_size, config.head_dim)
        self.kv = _zeros(shape, dtype if codes is None else codes.storage, device)
        self.scales = None if codes is None else _zeros(shape[:-1], torch.float32, device)
        self.ways = taken(attention, self.kv, self.group, dtype)
        self._in_place: list[_InPlace] = []
        self._groups: list[_Group] = []
        self._slots_T = torch.empty(0, dtype=torch.int64)

    @staticmethod
    def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype, codes: KvCodes | None = None) -> int:
        """Bytes of one block over all layers."""
        head = config.head_dim * dtype.itemsize
        if codes is not None:
            head = config.head_dim * codes.storage.itemsize + torch.float32.itemsize
        return 2 * config.n_layers * block_size * config.n_kv_heads * head

    def plan(self, rows: Ints, starts: Ints, ends: Ints) -> Tensor:
        """The next forward computes the tokens `starts[i]` to `ends[i]` (exclusive) of row `rows[i]`, back to back;
        those before are in the cache. Copies the blocks that forks have to own first. Returns the positions, int64[T].
        """
        self.copy_blocks()
        positions_T, slots_T = self.places(rows, starts, ends)
        self._slots_T = self._tensor(slots_T)
        few = ends - starts <= FEW_TOKENS
        self._in_place, gathered = [], np.zeros_like(few)
        for chosen, way in ((few, self.ways.few), (~few, self.ways.many)):
            if way is None:
                gathered |= chosen
            elif chosen.any():
                self._in_place.append(self._plan_in_place(way, rows, starts, ends, chosen))
        self._groups = self._plan_groups(rows, ends, ends - starts, np.flatnonzero(gathered))
        return self._tensor(positions_T)

    def places(self, rows: Ints, starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
        """Position and slot of each token that `plan` would be asked for."""
        positions_T, row_T = ranges(starts, ends), np.repeat(rows, ends - starts)
        size = self.pool.block_size
        blocks_T = self.pool.block_table[row_T, positions_T // size].astype(np.int64)
        return positions_T, blocks_T * size + positions_T % size

    def follow(self, slots_T: Tensor, reads: Reads) -> None:
        """Instead of `plan`, for who has put the next tokens' slots and what they see on the device."""
        self._slots_T, self._in_place, self._groups = slots_T, [_InPlace(reads, None)], []

    @property
    def of_core(self) -> CoreReads | None:
        """What the plan lets each new token see, if the core reads the blocks of all of them."""
        whole = self._in_place[0] if len(self._in_place) == 1 and self._in_place[0].tokens is None else None
        return whole.reads if whole is not None and isinstance(whole.reads, CoreReads) else None

    @property
    def slots(self) -> Ints:
        """Where the plan puts the keys and values of each new token, block * block_size + offset."""
        slots: Ints = self._slots_T.numpy()
        return slots

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Stores the new keys and values, then attends each new token to its sequence up to itself."""
        self._store(0, layer, k_TKC)
        self._store(1, layer, v_TKC)
        q_TKGC = q_TKGC.to(self.dtype)
        o_TKGC = torch.empty_like(q_TKGC, memory_format=torch.contiguous_format)
        for part in self._in_place:
            if part.tokens is None:
                return self._attend_in_place(part, layer, q_TKGC)
            o = self._attend_in_place(part, layer, q_TKGC.index_select(0, part.tokens))
            o_TKGC.index_copy_(0, part.tokens, o)
        for group in self._groups:
            keys, values = self._gather(0, layer, group), self._gather(1, layer, group)
            if group.places is None:
                return _attend(group, q_TKGC, keys, values)
            o = _attend(group, q_TKGC.index_select(0, group.places.queries), keys, values)
            o_TKGC.index_copy_(0, group.places.targets, o.index_select(0, group.places.real))
        return o_TKGC

    def _store(self, half: int, layer: int, new_TKC: Tensor) -> None:
        """Write new keys (`half` 0) or values (1) to their slots."""
        kept_KSC, new_KTC = self.kv[half, layer].flatten(1, 2), new_TKC.transpose(0, 1)
        if self.codes is None or self.scales is None:
            kept_KSC.index_copy_(1, self._slots_T, new_KTC.to(self.dtype))
            return
        codes_KTC, scales_KT = self.codes.quantize(new_KTC)
        kept_KSC.index_copy_(1, self._slots_T, codes_KTC)
        self.scales[half, layer].flatten(1, 2).index_copy_(1, self._slots_T, scales_KT)

    def _gather(self, half: int, layer: int, group: _Group) -> Tensor:
        """The keys or values in a group's blocks, [K, B, X, C]."""
        kept = self.kv[half, layer]
        # index_select copies whole blocks, several times faster than indexing.
        found = kept.flatten(2).index_select(1, group.blocks).view(len(kept), group.size[0], -1, kept.shape[-1])
        if self.codes is None or self.scales is None:
            return found
        scales_KBX = self.scales[half, layer].index_select(1, group.blocks).view(found.shape[:-1])
        return self.codes.dequantize(found, scales_KBX, self.dtype)

    def _attend_in_place(self, part: _InPlace, layer: int, q_TKGC: Tensor) -> Tensor:
        scales = () if self.scales is None else (self.scales[0, layer], self.scales[1, layer])
        return part.reads.attend(q_TKGC, self.kv[0, layer], self.kv[1, layer], *scales)

    def wipe(self) -> None:
        """Zero all keys and values: what a failed forward left behind may not be a number."""
        for tensor in self._tensors():
            tensor.zero_()

    def _tensors(self) -> list[Tensor]:
        return [self.kv] if self.scales is None else [self.kv, self.scales]

    def _plan_in_place(self, way: Way, rows: Ints, starts: Ints, ends: Ints, chosen: npt.NDArray[np.bool_]) -> _InPlace:
        table, size = self.pool.block_table, self.pool.block_size
        tokens = None if chosen.all() else self._tensor(np.flatnonzero(np.repeat(chosen, ends - starts)))
        return _InPlace(reads(way, table, size, rows[chosen], starts[chosen], ends[chosen], self.kv.device), tokens)

    def _plan_groups(self, rows: Ints, lens: Ints, new: Ints, many: Ints) -> list[_Group]:
        """The sequences whose blocks are gathered, `many`: those of about equal numbers of new tokens and of keys are
        padded to the longest and attended together."""
        first = np.cumsum(new) - new
        are_decoded = bool((new == 1).all())
        rows, lens, new, first = _cut(rows[many], lens[many], new[many], first[many])
        members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in range(len(rows)):
            members[_padded(int(new[index])), max(KEYS_TOGETHER, int(lens[index]) - 1).bit_length()].append(index)
        if len(members) == 1 and are_decoded:
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
        # Made on the device: of a long prompt it is larger than all else that is sent there.
        keys_X = torch.arange(blocks * self.pool.block_size, device=self.kv.device)
        hidden_BNX = keys_X > self._tensor(position_BN)[:, :, None]
        places = None
        if first_B is not None:
            queries = (first_B[:, None] + query_BN).reshape(-1)
            real = np.flatnonzero(within_N < new[:, None])
            places = _Places(self._tensor(queries), self._tensor(real), self._tensor(queries[real]))
        return _Group(
            size=(len(rows), len(within_N)),
            blocks=self._tensor(blocks_BP.reshape(-1)),
            hidden_BQX=hidden_BNX.repeat(1, self.group, 1),
            places=places,
        )

    def copy_blocks(self) -> None:
        """Copy the blocks that forks have to own before they write."""
        pairs = self.pool.take_copies()
        if len(pairs):
            source, target = self._tensor(pairs.astype(np.int64)).unbind(1)
            # Indexing reads all sources before any target is written.
            for tensor in self._tensors():
                tensor[:, :, :, target] = tensor[:, :, :, source]

    def _tensor(self, array: npt.NDArray[np.generic]) -> Tensor:
        return to_device(array, self.kv.device)


def _attend(group: _Group, q_FKGC: Tensor, k_KBXC: Tensor, v_KBXC: Tensor) -> Tensor:
    """F = B * N queries over their sequences' keys and values -> o_FKGC."""
    queries, key_heads, group_size, channels = q_FKGC.shape
    batch, new = group.size
    q_KBQC = q_FKGC.view(batch, new, key_heads, group_size, channels).permute(2, 0, 3, 1, 4).flatten(2, 3)
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
    """For a long prompt, whose scores would not fit in memory. The kernel that keeps none takes masks of four axes."""
    return F.scaled_dot_product_attention(q_KBQC, k_KBXC, v_KBXC, attn_mask=~hidden_BQX[None])


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because a weight of 0 on a value that is not a number would still spoil a sum. On the CPU they are
    memory that the system supplies when it is first written, so a large cache costs nothing before it is used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _cut(rows: Ints, lens: Ints, new: Ints, first: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Sequences with many new tokens as several with fewer each, the later ones longer: a query is not multiplied with
    keys that come long after it."""
    pieces = -(-new // QUERIES_TOGETHER)
    sequence, start = np.repeat(np.arange(len(rows)), pieces), ranges(np.zeros_like(pieces), pieces) * QUERIES_TOGETHER
    count = np.minimum(new[sequence] - start, QUERIES_TOGETHER)
    return rows[sequence], (lens - new)[sequence] + start + count, count, first[sequence] + start


def _padded(length: int) -> int:
    """1, or rounded up by a third at most, so that few groups serve many lengths."""
    step = 8 if length <= 32 else 1 << ((length - 1).bit_length() - 2)
    return 1 if length == 1 else -(-length // step) * step
