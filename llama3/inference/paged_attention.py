"""The ways to attend to keys and values that lie in blocks, behind one interface, and which of them a machine takes.

All ways compute the same: token t attends to the first `seen[t]` keys of its sequence, which lie in the blocks of its
line of the block table. They differ in what they suit:

- `core` (CPU): the Rust core reads the blocks where they lie. Few new tokens of a sequence, as in decoding.
- `triton` (CUDA): the same by the kernels of paged_kernel.py.
- `varlen` (CUDA): torch's attention over sequences of many lengths, for any number of new tokens. Which kernel that is
  (cuDNN's, FlashAttention 3 where it is installed) torch decides.
- `gather`: blocks are copied together and attended to by plain torch, on any device, for any number of new tokens. It
  is part of PagedCache.

FlexAttention is none of them: over pages it is several times slower than the others, where measured by others, and has
to be compiled anew for shapes that change.

No GPU was there when this was written. So a way is taken on one only after it has computed a small problem as
`definition` does.

Legend: T new tokens, B sequences, P blocks of a sequence, K key-value heads, G query heads per key-value head, C
channels per head; N blocks of the slab, X slots of each.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3 import _core
from llama3.errors import ConfigError, LlamaError
from llama3.model.ops import as_array, is_of_core

log = logging.getLogger(__name__)

NOT_HERE = ConfigError.declare(
    "L3-GEN-030",
    "the cache cannot be read by {way!r} here",
    why="{reason}",
    fix='leave it out, which takes what works, or use "gather"',
)
FALLS_BACK = LlamaError.declare(
    "L3-GEN-031",
    "the cache is not read by {way!r} on this GPU, which is slower",
    why="{reason}",
    fix="update torch and Triton, or leave it: the answers are the same",
)

Way = Literal["gather", "core", "triton", "varlen"]
Table = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""How far a way may be from `definition` on the problem that tries it, whose results are about 1."""


class Reads(Protocol):
    """Which keys each of some tokens sees, for one way. Made once for a forward, used by all its layers."""

    def attend(self, q_TKGC: Tensor, k_KNXC: Tensor, v_KNXC: Tensor, *scales_KNX: Tensor) -> Tensor:
        """Attend to one layer's slab -> o_TKGC. Scores are scaled by C ** -0.5. `scales_KNX`: of keys and of values
        that are codes, which only `core` reads."""
        ...


@dataclass(frozen=True)
class Taken:
    """The ways that a cache is read: for sequences with few new tokens and for those with many; None: gathered."""

    few: Way | None
    many: Way | None


def taken(way: Way | None, kv: Tensor, group: int, dtype: torch.dtype | None = None) -> Taken:
    """What `way` means for the slabs `kv` [2, layers, K, N, X, C], read by `group` query heads per key-value head.

    dtype: of computation, where the slabs are codes

    None takes the fastest that works. A way that suits few tokens only leaves the others to `gather`.
    Raises ConfigError for a way that does not work here.
    """
    dtype = dtype or kv.dtype
    if way is None:
        return _fastest(kv, group, dtype)
    if way != "gather" and (reason := fault(way, kv, group, dtype)) is not None:
        raise NOT_HERE("attention", way=way, reason=reason)
    return Taken(None if way == "gather" else way, "varlen" if way == "varlen" else None)


def _fastest(kv: Tensor, group: int, dtype: torch.dtype) -> Taken:
    if kv.device.type == "cpu":
        return Taken(None if fault("core", kv, group, dtype) else "core", None)
    faults = {way: fault(way, kv, group, dtype) for way in ("triton", "varlen")}
    for way, reason in faults.items():
        if reason is not None:
            _tell(way, reason)
    return Taken(None if faults["triton"] else "triton", None if faults["varlen"] else "varlen")


@cache
def _tell(way: str, reason: str) -> None:
    """Once, not for every engine."""
    log.warning("%s", FALLS_BACK.problem("attention", way=way, reason=reason))


def fault(way: Way, kv: Tensor, group: int, dtype: torch.dtype) -> str | None:
    """Why a way does not work with such slabs and queries of such a type here; None where it does."""
    if way == "core":
        query = torch.empty(0, dtype=dtype, device=kv.device)
        return (
            None if is_of_core(query) else "the Rust core computes in float32 and bfloat16 on a CPU with AVX2 or NEON"
        )
    if kv.dtype not in CLOSE:
        return f"it does not compute in {kv.dtype}"
    interpreted = way == "triton" and os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch, for tests
    if kv.device.type != "cuda" and not interpreted:
        return f"it needs a CUDA device, the model is on {kv.device.type}"
    return _tried(way, kv.device, kv.dtype, kv.shape[2], group, kv.shape[4], kv.shape[5])


@lru_cache(maxsize=64)
def _tried(
    way: Way, device: torch.device, dtype: torch.dtype, heads: int, group: int, size: int, channels: int
) -> str | None:
    """Let a way attend to random keys and compare with `definition`; what went wrong."""
    random = np.random.default_rng(0)
    draw = lambda *shape: torch.from_numpy(random.normal(size=shape)).to(device=device, dtype=dtype)
    rows, starts, ends = np.arange(3), np.array([0, 40, 597]), np.array([1, 43, 600])
    blocks = -(-600 // size)
    table = random.permutation(np.arange(1, 1 + 3 * blocks)).reshape(3, blocks).astype(np.int32)
    k_KNXC, v_KNXC = (draw(heads, 1 + 3 * blocks, size, channels) for _ in range(2))
    q_TKGC = draw(int((ends - starts).sum()), heads, group, channels)
    line_T, seen_T = np.repeat(rows, ends - starts), ranges(starts, ends) + 1
    expected = definition(q_TKGC, k_KNXC, v_KNXC, to_device(table[line_T], device), seen_T)
    try:
        found = reads(way, table, size, rows, starts, ends, device).attend(q_TKGC, k_KNXC, v_KNXC)
        error = float((found.double() - expected).abs().max())
    except Exception as problem:  # whatever a library raises, the other ways remain
        return f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
    return None if error <= CLOSE[dtype] else f"its results were {error:.2g} off in {dtype}"


def definition(q_TKGC: Tensor, k_KNXC: Tensor, v_KNXC: Tensor, table_TP: Tensor, seen_T: Ints) -> Tensor:
    """What every way computes, in float64, token by token."""
    o_TKGC = torch.empty(q_TKGC.shape, dtype=torch.float64, device=q_TKGC.device)
    for token, length in enumerate(seen_T.tolist()):
        k_KLC, v_KLC = (
            slab.index_select(1, table_TP[token].long()).flatten(1, 2)[:, :length].double() for slab in (k_KNXC, v_KNXC)
        )
        scores_KGL = q_TKGC[token].double() @ k_KLC.transpose(1, 2) * q_TKGC.shape[-1] ** -0.5
        o_TKGC[token] = scores_KGL.softmax(-1) @ v_KLC
    return o_TKGC


def reads(way: Way, table: Table, size: int, rows: Ints, starts: Ints, ends: Ints, device: torch.device) -> Reads:
    """For a way other than `gather`: tokens `starts[i]` to `ends[i]` (exclusive) of the sequence whose blocks of `size`
    slots are `table[rows[i]]`, back to back."""
    if way == "varlen":
        return VarlenReads.of(table, size, rows, starts, ends, device)
    row_T, seen_T = np.repeat(rows, ends - starts), ranges(starts, ends) + 1
    if way == "core":
        return CoreReads(table, row_T, seen_T)
    return TritonReads.of(table, size, row_T, seen_T, device)


@dataclass(frozen=True)
class CoreReads:
    """Token i sees the first `seen_T[i]` keys in the blocks `table[row_T[i]]`, all of them in the host's memory."""

    table: Table
    row_T: Ints
    seen_T: Ints

    def attend(self, q_TKGC: Tensor, k_KNXC: Tensor, v_KNXC: Tensor, *scales_KNX: Tensor) -> Tensor:
        o_TKGC = torch.empty_like(q_TKGC, memory_format=torch.contiguous_format)
        arrays = as_array(q_TKGC), as_array(k_KNXC), as_array(v_KNXC)
        scales = [scales.numpy() for scales in scales_KNX]
        _core.paged_attention(*arrays, self.table, self.row_T, self.seen_T, as_array(o_TKGC), *scales)
        return o_TKGC


@dataclass(frozen=True)
class TritonReads:
    """A line of blocks and a number of keys for each token, int32 on the device: of a step's shape nothing but T, so
    that one captured step serves all that have as many tokens."""

    table_TP: Tensor
    seen_T: Tensor

    @classmethod
    def of(cls, table: Table, size: int, row_T: Ints, seen_T: Ints, device: torch.device) -> TritonReads:
        blocks = -(-int(seen_T.max()) // size)
        return cls(to_device(table[row_T, :blocks], device), to_device(seen_T.astype(np.int32), device))

    def attend(self, q_TKGC: Tensor, k_KNXC: Tensor, v_KNXC: Tensor, *scales_KNX: Tensor) -> Tensor:
        o_TKGC: Tensor = torch.ops.llama3.paged_attention(q_TKGC, k_KNXC, v_KNXC, self.table_TP, self.seen_T)
        return o_TKGC


@dataclass(frozen=True)
class VarlenReads:
    """Sequences of the lengths `seen_B`, of which the last tokens are queries: those of sequence i begin at
    `starts_B1[i]`. int32 on the device.

    longest: at least the most queries and the most keys of a sequence; powers of two, because a kernel may be made for
    each pair
    """

    table_BP: Tensor
    starts_B1: Tensor
    seen_B: Tensor
    longest: tuple[int, int]

    @classmethod
    def of(cls, table: Table, size: int, rows: Ints, starts: Ints, ends: Ints, device: torch.device) -> VarlenReads:
        new = ends - starts
        queries, keys = (1 << (int(lengths.max()) - 1).bit_length() for lengths in (new, ends))
        blocks = -(-keys // size)
        table_BP = np.zeros((len(rows), blocks), np.int32)  # 0, the null block, pads
        table_BP[:, : table.shape[1]] = table[rows, :blocks]
        starts_B1 = np.append(0, np.cumsum(new)).astype(np.int32)
        seen_B = ends.astype(np.int32)
        return cls(
            to_device(table_BP, device), to_device(starts_B1, device), to_device(seen_B, device), (queries, keys)
        )

    def attend(self, q_TKGC: Tensor, k_KNXC: Tensor, v_KNXC: Tensor, *scales_KNX: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        # Causal from the last query and the last key on; no cumulative lengths of keys, which lie in blocks.
        o_THC = varlen_attn(
            q_TKGC.flatten(1, 2),
            k_KNXC.permute(1, 2, 0, 3),
            v_KNXC.permute(1, 2, 0, 3),
            self.starts_B1,
            None,
            *self.longest,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=self.seen_B,
            block_table=self.table_BP,
        )
        assert isinstance(o_THC, Tensor), "nothing else was asked for"
        return o_THC.unflatten(1, q_TKGC.shape[1:3])


def ranges(starts: Ints, ends: Ints) -> Ints:
    """start, start + 1, ... end - 1 of each pair, back to back."""
    counts = ends - starts
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - starts, counts)


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A tensor of the array's numbers. The host does not wait for a GPU to have copied them."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


# An operator of torch's own kind, so that whoever traces or fakes a step sees its result's shape and device.


def _paged_attention(q: Tensor, k: Tensor, v: Tensor, table: Tensor, seen: Tensor) -> Tensor:
    from llama3.inference import paged_kernel

    with torch.cuda.device_of(q):  # Triton launches on the current device
        return paged_kernel.attend(q, k, v, table, seen)


def _paged_attention_shape(q: Tensor, k: Tensor, v: Tensor, table: Tensor, seen: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


torch.library.define("llama3::paged_attention", "(Tensor q, Tensor k, Tensor v, Tensor table, Tensor seen) -> Tensor")
torch.library.impl("llama3::paged_attention", ("cpu", "cuda"), _paged_attention)
torch.library.register_fake("llama3::paged_attention", _paged_attention_shape)
