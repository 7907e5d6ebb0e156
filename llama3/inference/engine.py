"""`Engine`: continuous batching. Requests join and leave a running batch; every step computes one token of each answer.

A request is admitted only when blocks for its longest possible answer are free (Llama 3 paper 4.2.2), so no running
answer is ever preempted or swapped. Its prompt is computed once: earlier prompts' common prefix comes from the cache,
and its n answers are forks that share the prompt's blocks. Requests are served in the order of their arrival.

Many threads may read from one engine. None of them owns it: whoever waits for a token while nobody computes takes the
next step, for all (`Engine._in_turn`). So a lone reader computes in its own thread, and readers that come together
share every forward.

Legend: T new tokens, B running answers, D model dim, V vocabulary.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.config.precision import AutoPrecision
from llama3.errors import ConfigError, DoesNotFit
from llama3.inference.completion import Completion
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_cache import Ints, PagedCache
from llama3.inference.request import Answer, Request
from llama3.inference.sampling import Draws, Sampling, draw, stream_seed, uniforms
from llama3.inference.working_copy import refresh, sampling_dtype, working_copy
from llama3.model.config import ModelConfig
from llama3.model.needs import memory_here, size
from llama3.model.transformer import Transformer

NO_TOKENS = ConfigError.declare("L3-GEN-003", "has no tokens", fix="give the ids of a begin-of-text token and the text")
OTHER_TOKENS = ConfigError.declare(
    "L3-GEN-004",
    "has tokens outside the model's vocabulary of {size}",
    fix="encode it with this model's tokenizer",
)
NO_ROOM = DoesNotFit.declare(
    "L3-GEN-005",
    "{tokens} tokens and an answer of up to {answer} do not fit",
    why="the cache holds at most {limit} tokens of one sequence",
    fix="shorten the prompt or lower max_tokens",
)

NO_CACHE = DoesNotFit.declare(
    "L3-GEN-015",
    "the cache of a context of {tokens} tokens needs {needed} of memory, {place} has {there}",
    fix="lower max_position_embeddings in the model's config.json, or use a machine with more memory",
)

CACHE_BYTES = 256 << 20
"""Size of the cache unless `num_blocks` is given; more if one sequence of the model's context needs it."""
PREFILL_TOKENS = 2048
"""Prompt tokens computed in one forward; a longer prompt is computed in pieces."""


@dataclass(frozen=True)
class _Prefill:
    """An admitted prompt: the row that holds it, how many of its tokens the cache had, the answers it starts."""

    row: int
    prompt: npt.NDArray[np.uint32]
    cached: int
    answers: list[Answer]


class Engine:
    """Generates with a model through a paged KV cache.

    num_blocks, block_size: the cache (default: what CACHE_BYTES holds); max_batch: answers that run at once
    dtype: precision of computation and cache; another than the model's means a copy of its weights

    `generate` and `stream` are the doors for most; who reads several answers at once, as a server does, calls `submit`,
    then `tokens` or `wait`, and `cancel`. All may be called from any thread. Nothing is computed while nobody waits.

    Cached prompts are forgotten when the model's parameters were changed in place since the last request (as an
    optimizer does) and nothing is running; after any other kind of change call `reset`.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        num_blocks: int | None = None,
        block_size: int = 16,
        max_batch: int = 64,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._source = model
        copied = dtype not in (None, model.embed.weight.dtype)
        self.model = working_copy(model, dtype) if dtype is not None and copied else model
        weight = self.model.embed.weight
        context = -(-model.config.max_seq_len // block_size)
        if num_blocks is None:
            affordable = CACHE_BYTES // PagedCache.block_bytes(model.config, block_size, weight.dtype)
            num_blocks = 1 + max(context, min(affordable, max_batch * context))
        self.max_batch = max_batch
        _require_room(model.config, num_blocks, block_size, max_batch, weight)
        self.pool = KvPool(num_blocks, block_size, max_seqs=max_batch, max_blocks=min(context, max(1, num_blocks - 1)))
        self.cache = PagedCache(model.config, self.pool, dtype=weight.dtype, device=weight.device)
        self._live: dict[Request, None] = {}  # every request that is not over, in the order of arrival
        self._waiting: deque[Request] = deque()  # those with answers that have not started
        self._running: list[Answer] = []
        self._cancelled: list[Request] = []  # to be dropped when nobody computes
        self._turns = threading.Condition()  # guards the four above and is told of every step
        self._taken = False  # whether a thread computes; it alone then removes from the first three
        self._weights = self._weight_versions()

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers to each prompt (token ids), in order. All prompts are checked before any work starts.

        Raises DoesNotFit for a prompt that with max_tokens can never fit, ConfigError for one that is empty or has
        tokens outside the vocabulary. Whatever is raised, also KeyboardInterrupt, the cache loses nothing.
        """
        requests = self._submit_all(prompts, sampling)
        try:
            return [self.wait(request) for request in requests]
        finally:
            for request in requests:
                self.cancel(request)

    def stream(self, prompt: npt.ArrayLike, sampling: Sampling) -> Iterator[int]:
        """The tokens of one answer as they are drawn, the stop token included. Leaving the loop early cancels it."""
        request = self.submit(prompt, sampling)
        try:
            yield from self.tokens(request)
        finally:
            self.cancel(request)

    def submit(self, prompt: npt.ArrayLike, sampling: Sampling) -> Request:
        """Queue a request; those who wait, for this one or another, compute it. Errors as in `generate`."""
        return self._submit_all([prompt], sampling)[0]

    def tokens(self, request: Request, index: int = 0) -> Iterator[int]:
        """The tokens of the request's answer `index` as they are drawn. Raises what the model raised, or CancelledError
        when another thread cancelled the request."""
        sent = 0
        while request.error is None:
            completion = request.completions[index]
            new = (request.ids(index) if completion is None else completion.ids)[sent:]
            sent += len(new)
            yield from new
            if completion is not None:
                return
            if not new:
                self._in_turn(self._step, unless=partial(request.is_past, index, sent))
        raise request.error

    def wait(self, request: Request) -> list[Completion]:
        """All answers of the request. Raises as `tokens` does."""
        while not request.is_over:
            self._in_turn(self._step, unless=lambda: request.is_over)
        return request.result()

    def cancel(self, request: Request) -> None:
        """Drop a request in any state; its blocks are free at once, or after the step that is being computed. One that
        is over is left alone."""
        with self._turns:
            if request.is_over:
                return
            request.error = CancelledError("the request was cancelled")
            self._cancelled.append(request)
            if not self._taken:
                self._drop_cancelled()

    def reset(self) -> None:
        """Cancel all requests, forget cached prompts and take the model's weights anew."""
        for request in list(self._live):
            self.cancel(request)
        self._in_turn(self._forget)

    # -- who computes ------------------------------------------------------------------------------

    def _in_turn(self, work: Callable[[], None], unless: Callable[[], bool] = lambda: False) -> None:
        """Do `work` while no other thread does any. Nothing is done if `unless()` is true when the turn comes."""
        mine = False
        try:
            with self._turns:
                self._turns.wait_for(lambda: not self._taken or unless())
                if unless():
                    return
                mine = self._taken = True
            work()
        finally:
            if mine:
                with self._turns:
                    self._drop_cancelled()
                    self._taken = False
                    self._turns.notify_all()

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            request = self._cancelled.pop()
            self._live.pop(request, None)
            if request in self._waiting:
                self._waiting.remove(request)
            for answer in [answer for answer in self._running if answer.request is request]:
                self._running.remove(answer)
                self.pool.free(answer.row)

    def _step(self) -> None:
        """Start what fits and compute the next token of every answer, in one forward."""
        try:
            if not self._running:
                self._follow_weights()
            with torch.inference_mode():
                prefills = self._admit()
                logits_BV = self._forward(prefills)
                self._running += [answer for prefill in prefills for answer in prefill.answers]
                self._draw(logits_BV)
        except BaseException as error:
            self._abandon(error)
            raise

    def _abandon(self, error: BaseException) -> None:
        """Nothing in the cache can be trusted after a step that broke off. An error of the model is every request's; an
        interrupt is meant for the thread it reached, so the requests begin again and those of the others go on."""
        with self._turns:
            requests = [request for request in self._live if request.error is None]
            self._live.clear()
            self._waiting.clear()
            self._running.clear()
            self._cancelled.clear()
            for request in requests:
                if isinstance(error, Exception):
                    request.error = error
                else:
                    request.restart()
                    self._live[request] = None
                    self._waiting.append(request)
        self._forget()
        self.cache.wipe()

    def _forget(self) -> None:
        self.pool.reset()
        self._weights = []  # those of no model, so that the next step follows

    def _follow_weights(self) -> None:
        """What was computed with other weights is of no use."""
        versions = self._weight_versions()
        if self._weights != versions:
            if self.model is not self._source:
                refresh(self.model, self._source)
            self.pool.reset()
            self._weights = versions

    def _weight_versions(self) -> list[tuple[int, int]]:
        """Changes whenever a tensor of the model is changed in place or replaced."""
        tensors = chain(self._source.parameters(), self._source.buffers())
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors if not tensor.is_inference()]

    # -- requests ----------------------------------------------------------------------------------

    def _submit_all(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[Request]:
        arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
        self._check(arrays, sampling)
        requests = [Request(ids.astype(np.uint32), sampling) for ids in arrays]
        with self._turns:
            self._live.update(dict.fromkeys(requests))
            self._waiting.extend(requests)
        return requests

    def _check(self, prompts: list[npt.NDArray[np.int64]], sampling: Sampling) -> None:
        _check_tokens(prompts, self.model.config.vocab_size)
        limit = self.pool.max_tokens
        problems = [
            NO_ROOM.problem(f"prompt {index}", tokens=len(ids), answer=sampling.max_tokens, limit=limit)
            for index, ids in enumerate(prompts)
            if len(ids) + sampling.max_tokens > limit
        ]
        if problems:
            raise DoesNotFit.of(problems)

    def _admit(self) -> list[_Prefill]:
        """Give rows to as many waiting answers as fit."""
        prefills: list[_Prefill] = []
        room, tokens = self.max_batch - len(self._running), 0
        while self._waiting and room > 0:
            request = self._waiting[0]
            prompt = request.prompt
            tokens += len(prompt) - self.pool.match_len(prompt)
            # A long prompt is the first of its step, so that all it may find in the cache was computed before.
            if prefills and tokens > PREFILL_TOKENS:
                break
            admitted = self.pool.admit(prompt, max_len=len(prompt) + request.sampling.max_tokens)
            if admitted is None:
                break
            row, cached = admitted
            answers = self._start(request, row, room)
            prefills.append(_Prefill(row, prompt, cached, answers))
            room -= len(answers)
            if not request.pending:
                self._waiting.popleft()
        return prefills

    def _start(self, request: Request, row: int, room: int) -> list[Answer]:
        """The request's next answers: the admitted row and as many forks of it as fit. What is left is admitted
        again later and finds its prompt in the cache."""
        count = min(request.pending, room) - 1
        while (forks := self.pool.fork(row, count)) is None:
            count //= 2
        first = len(request.answers)
        answers = [
            Answer(request, first + i, fork, stream_seed(request.sampling.seed, request.prompt, first + i))
            for i, fork in enumerate([row, *forks])
        ]
        request.answers += answers
        return answers

    # -- one step ----------------------------------------------------------------------------------

    def _forward(self, prefills: list[_Prefill]) -> Tensor:
        """One forward over the last token of each running answer and the new prompts; returns the scores of the next
        token of the running answers, then of the new ones."""
        last = np.array([answer.ids[-1] for answer in self._running], dtype=np.uint32)
        running = np.array([answer.row for answer in self._running], dtype=np.int64)
        served = self.pool.step(running, last, np.empty_like(running))
        assert served == len(running), "admission promised every answer its blocks"
        rows = np.append(running, [prefill.row for prefill in prefills]).astype(np.int64)
        new = np.append(np.ones_like(running), [self._last_piece(prefill) for prefill in prefills]).astype(np.int64)
        tokens = [
            last,
            *(prefill.prompt[-count:] for prefill, count in zip(prefills, new[len(running) :], strict=True)),
        ]
        ends = self.pool.seq_lens[rows].astype(np.int64)
        h_TD = self._compute(np.concatenate(tokens), rows, ends - new, ends)
        answers = np.append(np.ones_like(running), [len(prefill.answers) for prefill in prefills]).astype(np.int64)
        scored = np.repeat(np.cumsum(new) - 1, answers)
        return self.model.logits(h_TD[torch.from_numpy(scored).to(h_TD.device)])

    def _last_piece(self, prefill: _Prefill) -> int:
        """Computes a long prompt up to its last piece, whose number of tokens it returns."""
        start, length = prefill.cached, len(prefill.prompt)
        row = np.array([prefill.row])
        while length - start > PREFILL_TOKENS:
            end = start + PREFILL_TOKENS
            self._compute(prefill.prompt[start:end], row, np.array([start]), np.array([end]))
            start = end
        return length - start

    def _compute(self, tokens: npt.NDArray[np.uint32], rows: Ints, starts: Ints, ends: Ints) -> Tensor:
        positions_T = self.cache.plan(rows, starts, ends)
        tokens_T = torch.from_numpy(tokens.astype(np.int64)).to(positions_T.device)
        return self.model.step(tokens_T, positions_T, self.cache)

    def _draw(self, logits_BV: Tensor) -> None:
        """Draw the next token of each running answer and end those that are over."""
        seeds = np.array([answer.seed for answer in self._running], dtype=np.uint64)
        indices = np.array([len(answer.ids) for answer in self._running])
        draws = Draws.of([answer.request.sampling for answer in self._running], uniforms(seeds, indices))
        ids_B, logps_B = draw(logits_BV, draws)
        running = []
        for answer, token, logp in zip(self._running, ids_B.tolist(), logps_B.tolist(), strict=True):
            answer.logps.append(logp)
            answer.ids.append(token)
            if (reason := answer.finish_reason) is None:
                running.append(answer)
                continue
            self.pool.free(answer.row)
            request = answer.request
            request.completions[answer.index] = Completion(answer.ids, answer.logps, reason)
            if request.is_over:
                self._live.pop(request, None)
        self._running = running


def _check_tokens(prompts: list[npt.NDArray[np.int64]], vocab_size: int) -> None:
    problems = []
    for index, ids in enumerate(prompts):
        if ids.ndim != 1 or len(ids) == 0:
            problems.append(NO_TOKENS.problem(f"prompt {index}"))
        elif ids.min() < 0 or ids.max() >= vocab_size:
            problems.append(OTHER_TOKENS.problem(f"prompt {index}", size=vocab_size))
    if problems:
        raise ConfigError.of(problems)


def throughput_engine(model: Transformer, precision: AutoPrecision = "auto") -> Engine:
    """An engine for many prompts at once: a large batch, and a precision (see `sampling_dtype`)."""
    return Engine(model, max_batch=128, dtype=sampling_dtype(model, precision))


def _require_room(config: ModelConfig, blocks: int, block_size: int, rows: int, weight: Tensor) -> None:
    """Raises DoesNotFit where no memory holds so many blocks and their table, or where they cannot be numbered."""
    needed = blocks * (PagedCache.block_bytes(config, block_size, weight.dtype) + 4 * rows)
    place, there = "this machine", memory_here() or needed
    if weight.device.type == "cuda":
        place, there = "its GPU", torch.cuda.get_device_properties(weight.device).total_memory
    if needed > there or blocks * max(block_size, rows) >= 1 << 31:
        tokens = f"{blocks * block_size:,}"
        raise NO_CACHE("the model", tokens=tokens, needed=size(needed), place=place, there=size(there))
