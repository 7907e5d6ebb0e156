"""Paged attention of few tokens as Triton kernels: each query reads its sequence's blocks where they lie.

Two kernels, as Flash-Decoding splits them (Dao, Haziza, Massa and Sizov, "Flash-Decoding for long-context inference",
2023). The first gives every program one token, one key-value head and one piece of the sequence, so that a single long
answer keeps a whole GPU busy; the G query heads that share the keys are the rows of its matrix products. The second
adds up a token's pieces, in order.

How a sequence is cut depends on its own length only, and all sums are float32 in one order. So the result for a token
has the same bits alone, beside others, among the drafts of a speculation, and in a padded batch. Several tokens of a
sequence are several queries; the cache of the device spares them most of the reading.

Offsets into keys and values are 64 bits: a slab passes 2^31 elements long before memory ends.

Legend: T tokens, K key-value heads, G query heads per key-value head, C channels per head, P blocks of a sequence,
S pieces; inside a program: M rows (G, padded), N keys, W channels (C, padded).
"""

# mypy: allow-untyped-defs
# A kernel's arguments are pointers and numbers of Triton's own language.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch comes without it where it is built for CPUs alone
    triton = None


def jit(**options: Any) -> Any:
    """`triton.jit`, or nothing where there is no Triton."""
    return triton.jit(**options) if triton is not None else lambda kernel: kernel


PIECES = 32
"""Pieces of a sequence at most: with 8 key-value heads, one answer makes twice as many programs as a large GPU has
processors."""
PIECE_KEYS = 256
"""Keys of a piece at least. A piece costs 2 C + 4 bytes of float32 sums written and read for each query head, about a
sixtieth of its keys and values in 16 bits."""
KEYS_TOGETHER = {2: 64, 4: 32}
"""Keys that a program holds at once, by bytes of an element."""
LOG2_E = 1.4426950408889634


@jit()
def _piece_keys(length, PIECES: tl.constexpr, PIECE_KEYS: tl.constexpr, KEYS: tl.constexpr):
    """Keys of each piece of a sequence: a function of its length alone. Short sequences have fewer pieces."""
    return tl.maximum(PIECE_KEYS, tl.cdiv(tl.cdiv(length, PIECES), KEYS) * KEYS)


# What changes from step to step is no constant of a kernel, which would be compiled anew for it.
@jit(do_not_specialize=["table_token", "grid_pieces"])
def _attend_piece(
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    seen_ptr,
    sum_ptr,
    largest_ptr,
    total_ptr,
    scale,
    q_token,
    q_head,
    q_row,
    cache_head,
    table_token,
    grid_pieces,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One piece: the sum of exp2(score - largest) * value for each row, `largest`, and the sum of the weights."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    piece = tl.program_id(2)
    length = tl.load(seen_ptr + token)
    keys = _piece_keys(length, PIECES, PIECE_KEYS, KEYS)
    first = piece * keys
    if first >= length:
        return
    last = tl.minimum(first + keys, length)

    row_M = tl.arange(0, ROWS)
    channel_W = tl.arange(0, WIDTH)
    is_channel_W = channel_W < CHANNELS
    is_real_MW = (row_M < GROUP)[:, None] & is_channel_W[None, :]
    q_MW = tl.load(
        q_ptr + token * q_token + head * q_head + row_M[:, None] * q_row + channel_W[None, :],
        mask=is_real_MW,
        other=0.0,
    )
    largest_M = tl.full([ROWS], float("-inf"), tl.float32)
    total_M = tl.zeros([ROWS], tl.float32)
    sum_MW = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(first, last, KEYS):
        key_N = start + tl.arange(0, KEYS)
        is_key_N = key_N < last
        block_N = tl.load(table_ptr + token * table_token + key_N // BLOCK, mask=is_key_N, other=0).to(tl.int64)
        place_N = head * cache_head + (block_N * BLOCK + key_N % BLOCK) * CHANNELS
        place_NW = place_N[:, None] + channel_W[None, :]
        is_real_NW = is_key_N[:, None] & is_channel_W[None, :]
        k_NW = tl.load(k_ptr + place_NW, mask=is_real_NW, other=0.0)
        score_MN = tl.dot(q_MW, tl.trans(k_NW), input_precision="ieee") * scale
        score_MN = tl.where(is_key_N[None, :], score_MN, float("-inf"))
        new_M = tl.maximum(largest_M, tl.max(score_MN, 1))
        weight_MN = tl.exp2(score_MN - new_M[:, None])
        kept_M = tl.exp2(largest_M - new_M)
        v_NW = tl.load(v_ptr + place_NW, mask=is_real_NW, other=0.0)
        total_M = total_M * kept_M + tl.sum(weight_MN, 1)
        sum_MW = sum_MW * kept_M[:, None] + tl.dot(weight_MN.to(v_NW.dtype), v_NW, input_precision="ieee")
        largest_M = new_M

    out_M = ((token * HEADS + head) * grid_pieces + piece) * GROUP + row_M
    tl.store(sum_ptr + out_M[:, None] * CHANNELS + channel_W[None, :], sum_MW, mask=is_real_MW)
    tl.store(largest_ptr + out_M, largest_M, mask=row_M < GROUP)
    tl.store(total_ptr + out_M, total_M, mask=row_M < GROUP)


@jit(do_not_specialize=["grid_pieces"])
def _add_pieces(
    sum_ptr,
    largest_ptr,
    total_ptr,
    seen_ptr,
    out_ptr,
    grid_pieces,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    CHANNELS: tl.constexpr,
    PIECES: tl.constexpr,
    PIECE_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The pieces of one token and head, first to last."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    length = tl.load(seen_ptr + token)
    count = tl.cdiv(length, _piece_keys(length, PIECES, PIECE_KEYS, KEYS))
    row_M = tl.arange(0, ROWS)
    channel_W = tl.arange(0, WIDTH)
    is_row_M = row_M < GROUP
    is_real_MW = is_row_M[:, None] & (channel_W < CHANNELS)[None, :]
    largest_M = tl.full([ROWS], float("-inf"), tl.float32)
    total_M = tl.zeros([ROWS], tl.float32)
    sum_MW = tl.zeros([ROWS, WIDTH], tl.float32)
    for piece in range(0, count):
        in_M = ((token * HEADS + head) * grid_pieces + piece) * GROUP + row_M
        piece_M = tl.load(largest_ptr + in_M, mask=is_row_M, other=0.0)
        new_M = tl.maximum(largest_M, piece_M)
        kept_M = tl.exp2(largest_M - new_M)
        added_M = tl.exp2(piece_M - new_M)
        total_M = total_M * kept_M + tl.load(total_ptr + in_M, mask=is_row_M, other=1.0) * added_M
        piece_MW = tl.load(sum_ptr + in_M[:, None] * CHANNELS + channel_W[None, :], mask=is_real_MW, other=0.0)
        sum_MW = sum_MW * kept_M[:, None] + piece_MW * added_M[:, None]
        largest_M = new_M
    out_M = (token * HEADS + head) * GROUP + row_M
    out_MW = sum_MW / total_M[:, None]
    tl.store(out_ptr + out_M[:, None] * CHANNELS + channel_W[None, :], out_MW, mask=is_real_MW)


def attend(q_TKGC: Tensor, k_KBXC: Tensor, v_KBXC: Tensor, table_TP: Tensor, seen_T: Tensor) -> Tensor:
    """o_TKGC: token t attends to the first `seen_T[t]` (at least 1) keys in the blocks `table_TP[t]`.

    k_KBXC, v_KBXC: one layer's slab, contiguous, B blocks of X slots; the queries' dtype
    table_TP, seen_T: int32
    """
    tokens, heads, group, channels = q_TKGC.shape
    block = k_KBXC.shape[2]
    grid_pieces = max(1, min(PIECES, -(-table_TP.shape[1] * block // PIECE_KEYS)))
    sums = q_TKGC.new_empty((tokens, heads, grid_pieces, group, channels), dtype=torch.float32)
    largest, total = (torch.empty_like(sums[..., 0]) for _ in range(2))
    o_TKGC = torch.empty_like(q_TKGC, memory_format=torch.contiguous_format)
    sizes = {
        "HEADS": heads,
        "GROUP": group,
        "CHANNELS": channels,
        "PIECES": PIECES,
        "PIECE_KEYS": PIECE_KEYS,
        "ROWS": max(16, triton.next_power_of_2(group)),  # matrix units take 16 rows at least
        "KEYS": KEYS_TOGETHER[q_TKGC.element_size()],
        "WIDTH": max(16, triton.next_power_of_2(channels)),
    }
    strides = (*q_TKGC.stride()[:3], k_KBXC.stride(0), table_TP.stride(0))
    scale = channels**-0.5 * LOG2_E
    _attend_piece[tokens, heads, grid_pieces](
        q_TKGC,
        k_KBXC,
        v_KBXC,
        table_TP,
        seen_T,
        sums,
        largest,
        total,
        scale,
        *strides,
        grid_pieces,
        BLOCK=block,
        **sizes,
    )
    _add_pieces[tokens, heads](sums, largest, total, seen_T, o_TKGC, grid_pieces, **sizes)
    return o_TKGC
