"""A model that several processes share, as one engine sees it: rank 0 has the engine, keeps account of the cache and
draws; the others compute what it tells them.

Ranks stand in a grid: those of `tp` share each matrix, those of `pp` the layers. For each forward rank 0 sends a frame
of numbers (tokens, block tables, places) to the ranks beside it, and every rank of a stage passes it on to its like in
the next one, before the hidden states. Each computes frames in the order in which they come. The last stage sends
scores back. While one stage computes a micro-batch, the others compute others (Llama 3 paper, 6.1).

Frames are counted arrays of int32. Nothing that is received is code, and nothing is pickled.

Legend: N rows, t those of a rank between the layers, D model dim, V vocabulary, R places that are scored, S places
whose hidden states are shown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import cast, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from llama3.config.serving import KvDtype
from llama3.errors import LlamaError
from llama3.inference.forwards import ForwardPlan, Forwards
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_cache import PagedCache
from llama3.inference.shard import BlockLines, Numbers, Shard, StepNumbers

LOST = LlamaError.declare(
    "L3-SRV-060",
    "a process that computes a part of the model has ended",
    why="without it nothing is computed",
    fix="ask again when all of them are back; their log says more",
)

ARRAYS = 7
"""Arrays of a frame at most."""
FRAME, HIDDEN, SCORES = 1, 2, 3
"""Tags of what one rank sends another."""
SENT = 32
"""Messages on their way; before there are more the oldest is waited for."""
KV_DTYPES: tuple[KvDtype, ...] = get_args(KvDtype)


class _Kind(IntEnum):
    END = 0
    """Of the process."""
    BEGIN = 1
    """A new cache: its blocks, their size, those of a sequence at most, and what it holds."""
    STEP = 2
    """A forward: StepNumbers."""
    WIPE = 3
    """Zero the cache."""
    SCORE = 4
    """Scores of so many hidden states, which follow."""


@dataclass(frozen=True)
class _Frame:
    kind: _Kind
    arrays: list[Numbers]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The lengths, and the numbers."""
        head = np.zeros(2 + ARRAYS, np.int64)
        head[:2] = self.kind, len(self.arrays)
        head[2 : 2 + len(self.arrays)] = [len(array) for array in self.arrays]
        numbers = np.concatenate([np.zeros(0, np.int32), *self.arrays])
        return torch.from_numpy(head), torch.from_numpy(numbers.astype(np.int32))


class _Wire:
    """What a rank receives from the one before and sends to the one after."""

    def __init__(self, shard: Shard) -> None:
        self.tp, self.pp = shard.tp, shard.pp
        self._shard = shard
        self._sent: deque[tuple[Tensor, dist.Work]] = deque()

    def start(self, frame: _Frame, x_ND: Tensor | None = None) -> None:
        """Rank 0: send a frame, and hidden states with it, to all."""
        for tensor in (*frame.tensors(), *(() if x_ND is None else (x_ND,))):
            if len(tensor):
                self._broadcast(tensor)
        self._pass_on(frame, x_ND)

    def receive(self) -> tuple[_Frame, Tensor | None]:
        """Another rank: the next frame, which is passed on first."""
        head = self._first(torch.empty(2 + ARRAYS, dtype=torch.int64))
        kind, count, *lengths = head.tolist()
        numbers = self._first(torch.empty(sum(lengths[:count]), dtype=torch.int32)).numpy()
        frame = _Frame(_Kind(kind), np.split(numbers, np.cumsum(lengths[: count - 1])) if count else [])
        x_ND = None
        if frame.kind is _Kind.SCORE:
            rows = int(frame.arrays[0][0])
            x_ND = self._first(torch.empty(rows, self._shard.kept.dim, dtype=self._shard.dtype))
        self._pass_on(frame, x_ND)
        return frame, x_ND

    def hidden(self, rows: int) -> Tensor:
        """The hidden states that the stage before has computed."""
        x_tD = torch.empty(rows, self._shard.kept.dim, dtype=self._shard.dtype)
        dist.recv(x_tD, group=self.pp.group, group_src=self._peer(-1), tag=HIDDEN)
        return x_tD.to(self._shard.device)

    def send_hidden(self, x_tD: Tensor) -> None:
        """To the next stage."""
        self._send(x_tD.cpu().contiguous(), self._peer(1), HIDDEN)

    def send_scores(self, *parts: Tensor) -> None:
        """The last stage's first rank: to rank 0."""
        for part in parts:
            if len(part):
                self._send(part.cpu().contiguous(), 0, SCORES)

    def scores(self, *shape: int) -> Tensor:
        """Rank 0: what the last stage has sent."""
        found = torch.empty(shape, dtype=self._shard.dtype)
        if len(found):
            dist.recv(found, group=self.pp.group, group_src=self.pp.size - 1, tag=SCORES)
        return found.to(self._shard.device)

    def _first(self, tensor: Tensor) -> Tensor:
        """Fill a tensor by what rank 0 has started."""
        if not len(tensor):
            return tensor
        if self.pp.rank:
            dist.recv(tensor, group=self.pp.group, group_src=self.pp.rank - 1, tag=FRAME)
        else:
            self._broadcast(tensor)
        return tensor

    def _broadcast(self, tensor: Tensor) -> None:
        if self.tp.group is not None:
            dist.broadcast(tensor, group=self.tp.group, group_src=0)

    def _pass_on(self, frame: _Frame, x_ND: Tensor | None) -> None:
        if self.pp.rank == self.pp.size - 1:
            return
        for tensor in (*frame.tensors(), *(() if x_ND is None else (x_ND,))):
            if len(tensor):
                self._send(tensor.contiguous(), self.pp.rank + 1, FRAME)

    def _send(self, tensor: Tensor, to: int, tag: int) -> None:
        work = dist.isend(tensor, group=self.pp.group, group_dst=to, tag=tag)
        self._sent.append((tensor, cast(dist.Work, work)))
        while len(self._sent) > SENT:
            self._sent.popleft()[1].wait()

    def flush(self) -> None:
        """Wait until all that was sent is received."""
        while self._sent:
            self._sent.popleft()[1].wait()

    def _peer(self, step: int) -> int:
        return (self.pp.rank + step) % self.pp.size


def _compute(shard: Shard, wire: _Wire, step: StepNumbers) -> Tensor | None:
    """This rank's part of a forward; on the last stage the final hidden states h_TD."""
    for stage in shard.stages(step):
        x_tD = None if stage.is_first else wire.hidden(shard.rows(len(step.tokens_T)))
        h = stage.compute(x_tD)
        if stage.is_last:
            return h
        wire.send_hidden(h)
    return None


def _scored(shard: Shard, step: StepNumbers, h_TD: Tensor) -> tuple[Tensor, Tensor] | None:
    """logits_RV and h_SD of a forward, on the first rank of the last stage."""
    scored_R, shown_S = (torch.from_numpy(x.astype(np.int64)).to(h_TD.device) for x in (step.scored_R, step.shown_S))
    logits_RV = shard.scores(h_TD[scored_R])
    return None if logits_RV is None else (logits_RV, h_TD[shown_S])


class Leader(Forwards):
    """Rank 0: computes its part, and has the others compute theirs. What breaks off in the middle of a forward leaves
    ranks that wait for each other, so after it nothing is computed any more.

    check_others: raises LlamaError where one of the others is known to have ended; it is asked while nothing is
    computed, when nothing else would tell
    """

    cache: PagedCache

    def __init__(self, shard: Shard, check_others: Callable[[], None] = lambda: None) -> None:
        self.shard, self.kept = shard, shard.kept
        self.depth = shard.pp.size
        self._check_others = check_others
        self._wire = _Wire(shard)
        self._launched: deque[tuple[int, int]] = deque()  # places scored and shown of what was not received
        self._received: deque[tuple[Tensor, Tensor]] = deque()
        self._lost = False

    def begin(self, pool: KvPool, kv_dtype: KvDtype) -> PagedCache:
        """Empty caches for the blocks of a pool, on all ranks; this one's."""
        self._pool = pool
        numbers = [pool.num_blocks, pool.block_size, pool.max_blocks, KV_DTYPES.index(kv_dtype)]
        with self._whole():
            self._wire.start(_Frame(_Kind.BEGIN, [np.array(numbers, np.int32)]))
        self.cache = _make_cache(self.shard, numbers)
        return self.cache

    def launch(self, plan: ForwardPlan) -> None:
        """Send it to all, and compute what is to be computed here."""
        lines = self._pool.block_table[plan.rows_B, : -(-int(plan.ends_B.max()) // self._pool.block_size)]
        fields = (plan.tokens_T, plan.starts_B, plan.ends_B, lines, self._pool.take_copies())
        numbers = (field.astype(np.int32) for field in (*fields, plan.scored_R, plan.shown_S))
        step = StepNumbers(*numbers)
        with self._whole():
            self._wire.start(_Frame(_Kind.STEP, step.arrays()))
            h_TD = _compute(self.shard, self._wire, step)
            if h_TD is not None:
                found = _scored(self.shard, step, h_TD)
                assert found is not None, "rank 0 is the first of its stage"
                self._received.append(found)
            else:
                self._launched.append((len(step.scored_R), len(step.shown_S)))

    def collect(self) -> tuple[Tensor, Tensor]:
        """Of the oldest forward."""
        if not self._received:
            self._receive()
        return self._received.popleft()

    def logits(self, h_TD: Tensor) -> Tensor:
        """By the last stage's output matrix, after all that was launched."""
        while self._launched:
            self._receive()
        with self._whole(), torch.inference_mode():
            numbers = np.array([len(h_TD)], np.int32)
            self._wire.start(_Frame(_Kind.SCORE, [numbers]), h_TD.cpu().contiguous())
            if self.shard.is_last:
                found = self.shard.scores(h_TD)
                assert found is not None
                return found
            return self._wire.scores(len(h_TD), self.shard.model.config.vocab_size)

    def wipe(self) -> None:
        """What is under way is received and dropped. Does nothing once ranks are lost."""
        if not self._lost:
            while self._launched:
                self._receive()
            self._received.clear()
            with self._whole():
                self._wire.start(_Frame(_Kind.WIPE, []))
            self.cache.wipe()

    def follow_weights(self) -> None:
        """Every forward reads them where they lie."""

    def check(self) -> None:
        """Raises LlamaError where a rank is lost."""
        if self._lost:
            raise LOST()
        self._check_others()

    def close(self) -> None:
        """Let the others end, if they are there."""
        if not self._lost:
            with self._whole():
                self._wire.start(_Frame(_Kind.END, []))
                self._wire.flush()
            self._lost = True

    def _receive(self) -> None:
        scored, shown = self._launched.popleft()
        with self._whole():
            logits_RV = self._wire.scores(scored, self.shard.model.config.vocab_size)
            self._received.append((logits_RV, self._wire.scores(shown, self.kept.dim)))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Work that all ranks do together: what breaks it off is the end. Raises LlamaError."""
        if self._lost:
            raise LOST()
        try:
            yield
        except BaseException as error:
            self._lost = True
            if isinstance(error, Exception):
                raise LOST() from error
            raise


def follow(shard: Shard) -> None:
    """Another rank: compute what rank 0 tells, until it says that this is the end. Raises RuntimeError where it has
    ended without."""
    wire = _Wire(shard)
    with torch.inference_mode():
        while True:
            frame, x_ND = wire.receive()
            if frame.kind is _Kind.END:
                wire.flush()
                return
            if frame.kind is _Kind.BEGIN:
                _make_cache(shard, frame.arrays[0].tolist())
            elif frame.kind is _Kind.WIPE:
                shard.cache.wipe()
            elif frame.kind is _Kind.STEP:
                _take_part(shard, wire, StepNumbers.of_arrays(frame.arrays))
            elif shard.is_last and x_ND is not None and (logits_NV := shard.scores(x_ND.to(shard.device))) is not None:
                _answer(shard, wire, [logits_NV])


def _take_part(shard: Shard, wire: _Wire, step: StepNumbers) -> None:
    h_TD = _compute(shard, wire, step)
    if h_TD is not None and (found := _scored(shard, step, h_TD)) is not None:
        _answer(shard, wire, found)


def _answer(shard: Shard, wire: _Wire, parts: Sequence[Tensor]) -> None:
    """To rank 0, unless this is its own stage, where it has gathered them itself."""
    if not shard.is_first:
        wire.send_scores(*parts)


def _make_cache(shard: Shard, numbers: Sequence[int]) -> PagedCache:
    num_blocks, block_size, max_blocks, kv_dtype = numbers
    return shard.make_cache(BlockLines(num_blocks, block_size, max_blocks), KV_DTYPES[kv_dtype])
