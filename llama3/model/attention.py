"""Attention over a packed forest: each segment sees itself causally and all its ancestors.

One protocol, `Attention`, is all that the transformer knows. Three things implement it:

- `ForestAttention` (any device, the CPU's fast path): segments of about equal size are attended together in a few
  batched matrix products over exactly their own and their ancestors' keys; there is no T x T mask. The plan of the
  batch is made once and shared by all layers.
- `FlexForestAttention` (CUDA): one FlexAttention call with a block mask made from the same forest.
- the engine's paged cache, whose `attend` writes the new keys and values into its pages and reads the old ones.

Legend: T tokens, K key-value heads, G query heads per key-value head (the group of GQA), C channels per head; within
a plan: B segments attended together, P ancestor tokens, N own tokens, Q query rows of one block.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from llama3.model.batch import Batch

QUERY_BLOCK = 64
"""Query rows that are attended at once: small enough for scores to stay in the CPU's cache and for little to be
computed above the diagonal, large enough for efficient matrix products (measured: 64 and 128 are equal, 256 is 1.5
times slower)."""

KEPT_PROBABILITIES = 1 << 26
"""Probabilities of one attention call that are kept for the backward pass; beyond this they are computed again, so that
long contexts cost memory linear in their length."""


class Attention(Protocol):
    """What a transformer layer calls. One object serves all layers of one forward pass."""

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        """Attend the new tokens' queries to everything they see, the new keys and values included -> o_TKGC.

        Queries and keys are already rotated; scores are scaled by C ** -0.5.
        """
        ...


def kept_pairs(attention: Attention, heads: int) -> int:
    """Pairs of a query and a key whose probability, of each of so many heads, an attention keeps for the backward
    pass; 0 of a fused kernel, which keeps none."""
    count = getattr(attention, "kept_pairs", None)
    return count(heads) if count is not None else 0


class KVCache(Attention, Protocol):
    """An `Attention` over keys and values of earlier calls. `attend` stores the new ones before it reads."""


def forest_attention(batch: Batch, queries_T: Tensor | None = None) -> Attention:
    """The attention of a batch on its device.

    queries_T: ascending tokens whose queries alone are given (default: of all); keys and values are those of the whole
    batch.
    """
    if batch.tokens_T.device.type == "cuda":
        return FlexForestAttention(batch, queries_T)
    return ForestAttention(batch, queries_T)


@dataclass(frozen=True)
class _Bucket:
    """B segments attended together: padded to N own tokens (at the end) and P ancestor tokens (at the front).

    own_BN, keys_BX: the row of each query and the token of each key column, X = P + N; padding repeats a token of the
        segment
    pad_own_BN, pad_ancestors_BP: where padding stands, or None where there is none
    span: (first, last + 1) if the segments lie back to back in the batch with no padding and no ancestors
    """

    own_BN: Tensor
    keys_BX: Tensor
    pad_own_BN: Tensor | None
    pad_ancestors_BP: Tensor | None
    span: tuple[int, int] | None

    @property
    def size(self) -> tuple[int, int, int]:
        """B, P, N"""
        segments, own = self.own_BN.shape
        return segments, self.keys_BX.shape[1] - own, own


class ForestAttention:
    """Attention over own and ancestors' keys, bucket by bucket."""

    def __init__(self, batch: Batch, queries_T: Tensor | None = None) -> None:
        self.buckets = _plan(batch) if queries_T is None else _plan_of(batch, queries_T)

    def kept_pairs(self, heads: int) -> int:
        """See the function of this name."""
        pairs = _pairs(self.buckets)
        return pairs if pairs * heads <= KEPT_PROBABILITIES else 0

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        return _ForestAttend.apply(q_TKGC, k_TKC, v_TKC, self.buckets)


def _plan(batch: Batch, chosen: Set[int] | None = None) -> list[_Bucket]:
    """Group the batch's segments (the `chosen` ones) by padded own and ancestor lengths."""
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    own_lengths, ancestor_lengths = batch.lengths_S.tolist(), batch.offsets_S.tolist()
    for segment, (own, ancestors) in enumerate(zip(own_lengths, ancestor_lengths, strict=True)):
        if chosen is None or segment in chosen:
            members[_padded(ancestors), _padded(own)].append(segment)
    return [_bucket(batch, torch.tensor(segments, device=batch.tokens_T.device)) for segments in members.values()]


def _plan_of(batch: Batch, queries_T: Tensor) -> list[_Bucket]:
    """A plan for the queries of some tokens only: segments are cut where runs of these begin and end, each piece
    becoming the parent of the next, and the pieces in the runs are what is attended."""
    begins = queries_T[queries_T.diff(prepend=queries_T.new_tensor([-2])) != 1]
    ends = queries_T[queries_T.diff(append=queries_T.new_tensor([batch.num_tokens + 1])) != 1] + 1
    starts_S1 = torch.cat([batch.starts_S1.long(), begins, ends]).unique()
    first_S = starts_S1[:-1]
    segment_S = batch.segment_T[first_S]
    last_piece = torch.searchsorted(starts_S1, batch.starts_S1[1:].long()) - 1
    above_S = batch.parents_S.long()[segment_S]
    begins_S = first_S == batch.starts_S1.long()[segment_S]
    before_S = torch.arange(len(first_S), device=first_S.device) - 1
    parents_S = torch.where(begins_S, torch.where(above_S < 0, -1, last_piece[above_S]), before_S)
    pieces = Batch(batch.tokens_T, starts_S1.to(torch.int32), parents_S.to(torch.int32), batch.targets_M[:0])
    row_T = torch.full_like(batch.tokens_T, -1)
    row_T[queries_T] = torch.arange(len(queries_T), device=row_T.device)
    chosen = set((row_T[first_S] >= 0).nonzero().squeeze(-1).tolist())
    # Rows of queries and of keys are not the same any more: none of the buckets is a plain span of both.
    return [replace(bucket, own_BN=row_T[bucket.own_BN], span=None) for bucket in _plan(pieces, chosen)]


def _padded(length: int) -> int:
    """Round up by half at most, so that few buckets serve many lengths: 0, 8, 16, 24, 32, 48, 64, 96, 128, 192, ..."""
    step = 8 if length <= 32 else 1 << ((length - 1).bit_length() - 2)
    return -(-length // step) * step


def _bucket(batch: Batch, segments: Tensor) -> _Bucket:
    """The given segments as one bucket, padded only as far as its longest members need."""
    device = batch.tokens_T.device
    own = int(batch.lengths_S[segments].max())
    ancestors = int(batch.offsets_S[segments].max())
    starts_B, lengths_B = batch.starts_S1[segments].long(), batch.lengths_S[segments]
    within_N = torch.arange(own, device=device)
    # A padded query repeats the segment's last token; its output is dropped and, coming last, nothing attends
    # to it.
    own_BN = starts_B[:, None] + torch.minimum(within_N, lengths_B[:, None] - 1)
    ancestors_BP, pad_BP = _ancestor_tokens(batch, segments, ancestors)
    pad_BN = within_N >= lengths_B[:, None]
    gapless = bool((starts_B == starts_B[0] + own * torch.arange(len(segments), device=device)).all())
    is_span = gapless and ancestors == 0 and not bool(pad_BN.any())
    first = int(starts_B[0])
    return _Bucket(
        own_BN=own_BN,
        keys_BX=torch.cat([ancestors_BP, own_BN], dim=1),
        pad_own_BN=pad_BN if bool(pad_BN.any()) else None,
        pad_ancestors_BP=pad_BP if bool(pad_BP.any()) else None,
        span=(first, first + own_BN.numel()) if is_span else None,
    )


def _ancestor_tokens(batch: Batch, segments: Tensor, ancestors: int) -> tuple[Tensor, Tensor]:
    """The tokens of each segment's ancestors, right-aligned in P columns, and where the padding before them stands."""
    device = batch.tokens_T.device
    position_P = torch.arange(ancestors, device=device) - ancestors + batch.offsets_S[segments][:, None]
    token_BP = batch.starts_S1[segments].long()[:, None].expand(-1, ancestors).clone()
    above_B = batch.parents_S[segments].long()
    while bool((has_B := above_B >= 0).any()):
        offset_B, start_B = batch.offsets_S[above_B], batch.starts_S1[above_B].long()
        inside_BP = (position_P >= offset_B[:, None]) & (position_P < (offset_B + batch.lengths_S[above_B])[:, None])
        token_BP = torch.where(inside_BP & has_B[:, None], start_B[:, None] + position_P - offset_B[:, None], token_BP)
        above_B = torch.where(has_B, batch.parents_S.long()[above_B], above_B)
    return token_BP, position_P < 0


class _ForestAttend(torch.autograd.Function):
    """softmax(q k' / sqrt(C)) v over the buckets of a forest, with the backward pass written out.

    Plain matrix products in blocks of query rows: on CPUs they run at full bfloat16 speed, which
    `scaled_dot_product_attention` does not (measured, 16 x 512 tokens: half the time forward and backward).
    """

    @staticmethod
    def forward(ctx: Any, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor, buckets: list[_Bucket]) -> Tensor:
        needs_backward = any(ctx.needs_input_grad)
        heads = q_TKGC.shape[1] * q_TKGC.shape[2]
        keep = needs_backward and _pairs(buckets) * heads <= KEPT_PROBABILITIES
        o_TKGC = torch.empty_like(q_TKGC, memory_format=torch.contiguous_format)
        saved: list[Tensor] = [o_TKGC]
        for bucket in buckets:
            q, k, v = _gather(bucket, q_TKGC, k_TKC, v_TKC)
            o = torch.empty_like(q)
            saved += [q, k, v]
            for rows, columns in _blocks(bucket):
                p = _probabilities(bucket, q, k, rows, columns)
                o[:, :, rows] = _unfold(torch.bmm(p, v[:, :columns]), q)
                if keep:
                    saved.append(p)
            _scatter_own(bucket, o, o_TKGC)
        if needs_backward:
            ctx.save_for_backward(*saved)
            ctx.buckets, ctx.kept, ctx.tokens = buckets, keep, len(k_TKC)
        return o_TKGC

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (grad_o_TKGC,) = grads
        o_TKGC, *rest = ctx.saved_tensors
        saved = iter(rest)
        grad_q_TKGC = torch.empty_like(o_TKGC)
        # Keys of ancestors receive from many segments: summed in float32.
        key_heads, channels = o_TKGC.shape[1], o_TKGC.shape[3]
        grad_k_TKC, grad_v_TKC = (_zeros_for_sums(o_TKGC, ctx.tokens, key_heads, channels) for _ in range(2))
        for bucket in ctx.buckets:
            q, k, v = next(saved), next(saved), next(saved)
            grad_o = _heads_first(_rows(bucket, grad_o_TKGC))
            if bucket.pad_own_BN is not None:
                by_segment = grad_o.unflatten(0, (len(bucket.own_BN), -1))
                by_segment.masked_fill_(bucket.pad_own_BN[:, None, None, :, None], 0)
            # sum over keys of p * dp equals o . do, row by row
            delta = (grad_o * _heads_first(_rows(bucket, o_TKGC))).sum(-1, keepdim=True)
            grad_q = torch.empty_like(q)
            grad_k, grad_v = (_zeros_for_sums(x, *x.shape) for x in (k, v))
            for rows, columns in _blocks(bucket):
                p = next(saved) if ctx.kept else _probabilities(bucket, q, k, rows, columns)
                grad_o_rows = _fold(grad_o, rows)
                grad_v[:, :columns] += torch.bmm(p.transpose(1, 2), grad_o_rows)
                grad_s = torch.bmm(grad_o_rows, v[:, :columns].transpose(1, 2)).sub_(_fold(delta, rows)).mul_(p)
                grad_q[:, :, rows] = _unfold(torch.bmm(grad_s, k[:, :columns]), q)
                grad_k[:, :columns] += torch.bmm(grad_s.transpose(1, 2), _fold(q, rows))
            _scatter_own(bucket, grad_q.mul_(_scale(q)), grad_q_TKGC)
            _add_keys(bucket, grad_k, grad_k_TKC)
            _add_keys(bucket, grad_v, grad_v_TKC)
        return grad_q_TKGC, grad_k_TKC.to(o_TKGC.dtype), grad_v_TKC.to(o_TKGC.dtype), None


# Inside a bucket, B * K is one axis (the batch of the matrix products) and a block of Q query rows of all G
# heads of a group is folded into G * Q rows, so that keys and values are never repeated.


def _zeros_for_sums(x: Tensor, *shape: int) -> Tensor:
    """Zeros where `x` is, in its dtype or in float32, whichever is wider."""
    return x.new_zeros(shape, dtype=torch.promote_types(x.dtype, torch.float32))


def _scale(q: Tensor) -> float:
    return 1.0 / math.sqrt(q.shape[-1])


def _rows(bucket: _Bucket, x_T: Tensor) -> Tensor:
    """The bucket's own rows of a per-token tensor: [T, K, ...] -> [B, N, K, ...]."""
    if bucket.span is not None:
        return x_T[bucket.span[0] : bucket.span[1]].unflatten(0, bucket.own_BN.shape)
    return x_T[bucket.own_BN.flatten()].unflatten(0, bucket.own_BN.shape)


def _heads_first(x_BNKGC: Tensor) -> Tensor:
    """[B, N, K, G, C] -> contiguous [B * K, G, N, C]"""
    return x_BNKGC.permute(0, 2, 3, 1, 4).contiguous().flatten(0, 1)


def _gather(bucket: _Bucket, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries [B * K, G, N, C], keys and values [B * K, X, C] of a bucket."""
    rows = _rows(bucket, q_TKGC).permute(0, 2, 3, 1, 4)
    q = torch.mul(rows, _scale(q_TKGC), out=torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)).flatten(0, 1)
    k, v = (_key_rows(bucket, x_TKC).transpose(1, 2).contiguous().flatten(0, 1) for x_TKC in (k_TKC, v_TKC))
    return q, k, v


def _key_rows(bucket: _Bucket, x_TKC: Tensor) -> Tensor:
    """[T, K, C] -> [B, X, K, C]"""
    if bucket.span is not None:
        return _rows(bucket, x_TKC)
    return x_TKC[bucket.keys_BX.flatten()].unflatten(0, bucket.keys_BX.shape)


def _blocks(bucket: _Bucket) -> list[tuple[slice, int]]:
    """Blocks of query rows, each with the number of leading key columns that any of its rows sees."""
    _, ancestors, own = bucket.size
    return [
        (slice(first, min(first + QUERY_BLOCK, own)), ancestors + min(first + QUERY_BLOCK, own))
        for first in range(0, own, QUERY_BLOCK)
    ]


def _pairs(buckets: list[_Bucket]) -> int:
    """Pairs of a query and a key that are computed, of one head; what blocks leave out above the diagonal is not."""
    return sum(
        len(bucket.own_BN) * (rows.stop - rows.start) * columns
        for bucket in buckets
        for rows, columns in _blocks(bucket)
    )


def _fold(x: Tensor, rows: slice) -> Tensor:
    """[B * K, G, N, C] -> [B * K, G * Q, C]"""
    return x[:, :, rows].flatten(1, 2)


def _unfold(x: Tensor, like: Tensor) -> Tensor:
    """[B * K, G * Q, C] -> [B * K, G, Q, C]"""
    return x.unflatten(1, (like.shape[1], -1))


def _probabilities(bucket: _Bucket, q: Tensor, k: Tensor, rows: slice, columns: int) -> Tensor:
    """softmax of one block's scores: [B * K, G * Q, columns]. The softmax itself is computed in fp32."""
    scores = torch.bmm(_fold(q, rows), k[:, :columns].transpose(1, 2))
    num_rows = rows.stop - rows.start
    # Only the last square can lie above the diagonal.
    diagonal = scores.unflatten(1, (q.shape[1], num_rows))[..., columns - num_rows :]
    diagonal.masked_fill_(_above_diagonal(num_rows, scores.device), float("-inf"))
    if bucket.pad_ancestors_BP is not None:
        segments, ancestors, _ = bucket.size
        padded = scores.view(segments, -1, *scores.shape[1:])[..., :ancestors]
        padded.masked_fill_(bucket.pad_ancestors_BP[:, None, None, :], float("-inf"))
    return torch.softmax(scores, dim=-1)


@lru_cache(maxsize=256)
def _above_diagonal(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def _scatter_own(bucket: _Bucket, x: Tensor, out_TKGC: Tensor) -> None:
    """Write [B * K, G, N, C] to the bucket's rows of [T, K, G, C]; padded rows are dropped."""
    segments, _, own = bucket.size
    x_BNKGC = x.view(segments, -1, *x.shape[1:]).permute(0, 3, 1, 2, 4)
    if bucket.span is not None:
        out_TKGC[bucket.span[0] : bucket.span[1]].unflatten(0, (segments, own)).copy_(x_BNKGC)
    elif bucket.pad_own_BN is None:
        out_TKGC[bucket.own_BN.flatten()] = x_BNKGC.flatten(0, 1)
    else:
        real_BN = ~bucket.pad_own_BN
        out_TKGC[bucket.own_BN[real_BN]] = x_BNKGC[real_BN]


def _add_keys(bucket: _Bucket, x: Tensor, out_TKC: Tensor) -> None:
    """Add [B * K, X, C] to the bucket's key rows of [T, K, C]; padded columns carry zeros."""
    segments, _, own = bucket.size
    x_BXKC = x.view(segments, -1, *x.shape[1:]).transpose(1, 2)
    if bucket.span is not None:
        out_TKC[bucket.span[0] : bucket.span[1]].unflatten(0, (segments, own)).add_(x_BXKC)
    else:
        out_TKC.index_add_(0, bucket.keys_BX.flatten(), x_BXKC.flatten(0, 1))


def forest_mask(batch: Batch) -> Any:
    """FlexAttention's mask function of a forest: does query token i see key token j?

    Segments are numbered in preorder, so that the descendants of a segment are one interval of numbers.
    """
    parents = batch.parents_S.tolist()
    sizes = [1] * len(parents)
    for segment in reversed(range(len(parents))):
        if parents[segment] >= 0:
            sizes[parents[segment]] += sizes[segment]
    enter, next_free, roots_end = [0] * len(parents), [0] * len(parents), 0
    for segment, parent in enumerate(parents):
        if parent < 0:
            enter[segment], roots_end = roots_end, roots_end + sizes[segment]
        else:
            enter[segment] = next_free[parent]
            next_free[parent] += sizes[segment]
        next_free[segment] = enter[segment] + 1
    device = batch.tokens_T.device
    enter_T = torch.tensor(enter, device=device)[batch.segment_T]
    exit_T = enter_T + torch.tensor(sizes, device=device)[batch.segment_T]
    positions_T = batch.positions_T

    def sees(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        in_path = (enter_T[j] <= enter_T[i]) & (enter_T[i] < exit_T[j])
        return in_path & (positions_T[j] <= positions_T[i])

    return sees


class FlexForestAttention:
    """The same attention as one compiled FlexAttention kernel (CUDA). Its mask is tested on the CPU against the dense
    one; the kernel itself needs a GPU."""

    def __init__(self, batch: Batch, queries_T: Tensor | None = None) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        sees, rows = forest_mask(batch), batch.num_tokens
        if queries_T is not None:
            tokens_sees, rows = sees, len(queries_T)
            sees = lambda b, h, i, j: tokens_sees(b, h, queries_T[i], j)
        self.block_mask = create_block_mask(sees, None, None, rows, batch.num_tokens, batch.tokens_T.device)

    def attend(self, layer: int, q_TKGC: Tensor, k_TKC: Tensor, v_TKC: Tensor) -> Tensor:
        q_1HTC = q_TKGC.flatten(1, 2).transpose(0, 1)[None]
        k_1KTC, v_1KTC = k_TKC.transpose(0, 1)[None], v_TKC.transpose(0, 1)[None]
        o_1HTC = _compiled_flex()(q_1HTC, k_1KTC, v_1KTC, block_mask=self.block_mask, enable_gqa=True)
        return o_1HTC[0].transpose(0, 1).unflatten(1, q_TKGC.shape[1:3])


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
