"""`KvPool`: which block of the KV cache holds which tokens of which sequence.

The accounting of paged attention (Llama 3 paper 4.2.2) as one object: a pool of fixed-size blocks, one line of block
ids per running sequence (a *row*), a prefix cache over full blocks, and forks that share everything until they write.
Keys and values live elsewhere, in tensors indexed by the slots this pool gives out; it works with any attention
kernel that reads a block table. One call serves all rows of a decode step.

Two rules for the owner of the tensors. Compute the keys and values of admitted and stepped tokens right after the
call, in the order of the calls: full blocks are findable at once. Before that, apply `take_copies()`, reading all
sources before writing any target. A row whose computation failed is freed with `cache=False`.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from llama3 import _core
from llama3.errors import DoesNotFit

NEVER_FITS = DoesNotFit.declare(
    "L3-KVP-001",
    "a sequence of {length} tokens cannot fit",
    why="the pool holds at most {limit} tokens of one sequence",
    fix="shorten the prompt or max_tokens, or use a pool with more blocks",
)


class KvPool:
    """A pool of KV-cache blocks.

    num_blocks: blocks in the cache tensors; block 0 is never handed out and pads the block table
    block_size: tokens per block
    max_seqs: rows, that is sequences that run at once
    max_blocks: blocks per row, which bounds the length of a sequence (default: what the pool holds)
    key: secret of the prefix cache's hash (default: random); results do not depend on it
    watermark: share of the blocks that admission leaves free while other rows run

    Not thread-safe in the sense that calls must not overlap; the engine calls it from one thread.
    Errors: ValueError for misuse (a row that is not running, a double free, unequal lengths); nothing is changed then.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int = 16,
        *,
        max_seqs: int = 64,
        max_blocks: int | None = None,
        key: bytes | None = None,
        watermark: float = 0.01,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.max_seqs = max_seqs
        self.max_blocks = max(1, num_blocks - 1) if max_blocks is None else max_blocks
        key = secrets.token_bytes(32) if key is None else key
        self._core = _core.KvPool(num_blocks, block_size, max_seqs, self.max_blocks, key, watermark)

    def __repr__(self) -> str:
        return f"KvPool({self.num_blocks} blocks of {self.block_size}, {self.max_seqs} rows)"

    @property
    def block_table(self) -> npt.NDArray[np.int32]:
        """Block ids of all rows, int32[max_seqs, max_blocks], 0 beyond a row's end. A read-only view of memory that is
        never reallocated: take it once and read it after every call."""
        return self._core.block_table

    @property
    def seq_lens(self) -> npt.NDArray[np.int32]:
        """Tokens of each row, int32[max_seqs], 0 for rows that are not running. A view like `block_table`."""
        return self._core.seq_lens

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that this pool can ever hold."""
        return self._core.row_limit * self.block_size

    def admit(
        self, tokens: npt.ArrayLike, *, salt: bytes = b"", adapter: int = 0, max_len: int = 0
    ) -> tuple[int, int] | None:
        """Start a sequence: find its cached prefix, take blocks for the rest, and promise it blocks for up to `max_len`
        tokens, so that `step` cannot fail before that. All or nothing.

        Returns (row, number of leading tokens whose keys and values are in the cache), or None: not now, but when
        other rows have ended. Sequences of different `salt` or `adapter` never share blocks.
        Raises DoesNotFit if it can never fit, ValueError without tokens.
        """
        tokens_n = _whole(tokens, np.uint32)
        length = max(len(tokens_n), max_len)
        if length > self.max_tokens:
            raise NEVER_FITS("KvPool.admit", length=length, limit=self.max_tokens)
        return self._core.admit(tokens_n, salt, adapter, max_len)

    def match_len(self, tokens: npt.ArrayLike, *, salt: bytes = b"", adapter: int = 0) -> int:
        """Leading tokens that `admit` would find in the cache now. Nothing is touched."""
        return self._core.match_len(_whole(tokens, np.uint32), salt, adapter)

    def step(self, rows: npt.ArrayLike, tokens: npt.ArrayLike, slots_out: npt.NDArray[np.int64]) -> int:
        """Append one token to each of the (distinct) rows and write its slot, block * block_size + offset.

        Returns how many rows were served: all, or those before the first one for which no block was left (that row
        and the later ones are unchanged). Rows within their promised length are always served.
        """
        return self._core.step(_whole(rows, np.int64), _whole(tokens, np.uint32), slots_out)

    def extend(self, row: int, count: int) -> npt.NDArray[np.int64] | None:
        """Append `count` drafts, tokens that are not known yet, and return their slots, int64[count]; None if there
        are not enough blocks. `accept` ends the draft."""
        return self._core.extend(row, count)

    def accept(self, row: int, tokens: npt.ArrayLike) -> None:
        """The first drafts of the row turned out to be `tokens`; the other drafts are cut off."""
        self._core.accept(row, _whole(tokens, np.uint32))

    def truncate(self, row: int, length: int) -> None:
        """Cut a row to its first `length` tokens (at least 1). What was findable stays findable."""
        self._core.truncate(row, length)

    def fork(self, row: int, count: int) -> list[int] | None:
        """`count` new rows with the content and the promised length of `row`, sharing all its blocks; the partial last
        block is copied when one of the sharers writes (see `take_copies`). None: not enough rows or blocks now."""
        return self._core.fork(row, count)

    def take_copies(self) -> npt.NDArray[np.int32]:
        """Pairs (from, to) of blocks, int32[m, 2], whose keys and values must be copied before the next forward; all
        sources are read before any target is written."""
        return self._core.take_copies()

    def free(self, row: int, *, cache: bool = True) -> None:
        """End a row. Its full blocks stay findable until their memory is needed; with `cache=False` those that no other
        row holds are forgotten. Freeing twice is a ValueError."""
        self._core.free(row, cache)

    def pin(self, row: int) -> int | None:
        """Protect the row's cached prefix from eviction, also after the row has ended. Returns a handle for `unpin`, or
        None if the promises made to running rows do not allow it."""
        return self._core.pin(row)

    def unpin(self, pin: int) -> None:
        """Undo one `pin`."""
        self._core.unpin(pin)

    def evict(self, count: int) -> int:
        """Forget up to `count` cached blocks that no row holds, least recently used first; returns how many."""
        return self._core.evict(count)

    def reset(self) -> None:
        """End all rows and pins and forget the cache, as after a change of the weights."""
        self._core.reset()

    def stats(self) -> dict[str, int]:
        """Now: blocks, free (cached ones included), cached, promised, pinned, rows. Since the start: admitted, refused,
        prompt_tokens, hit_tokens, copies, evictions."""
        return self._core.stats()

    def check(self) -> list[str]:
        """Audit every invariant against the tables; what is wrong, in words. Empty: the pool is sound."""
        return self._core.check()


def _whole(values: npt.ArrayLike, dtype: type[np.unsignedinteger | np.signedinteger]) -> npt.NDArray[Any]:
    """Numbers of tokens or rows in the core's type. ValueError for what is no whole number or does not fit: a 1.5 that
    becomes 1, or a -1 that becomes 4294967295, would be another token."""
    array = np.asarray(values)
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    if not array.size:
        return np.empty(0, dtype)
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "iu" or array.min() < limits.min or array.max() > limits.max:
        raise ValueError(f"whole numbers from {max(limits.min, 0)} to {limits.max} are wanted, got {array.dtype}")
    return np.ascontiguousarray(array, dtype)
