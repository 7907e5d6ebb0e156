"""`Engine`: continuous batching. Requests join and leave a running batch; every step computes one token of each answer.

A request is admitted only when blocks for its longest possible answer are free (Llama 3 paper 4.2.2), so no running
answer is ever preempted or swapped. Its prompt is computed once: earlier prompts' common prefix comes from the cache,
and its n answers are forks that share the prompt's blocks. Requests are served in the order of their arrival.

A step computes at most `prefill_tokens` of prompts: a long one takes several, in each of which every running answer
gets its token. No other prompt starts while one is half computed, so whatever is found in the cache was computed
before it is read.

Many threads may read from one engine. None of them owns it: whoever waits for a token while nobody computes takes the
next step, for all (`Engine._in_turn`). So a lone reader computes in its own thread, and readers that come together
share every forward. A server gives it a thread that calls `step`.

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
from llama3.inference.decoder import Decoder
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_cache import Ints, PagedCache
from llama3.inference.request import Answer, Constraint, Reader, Request
from llama3.inference.sampling import Draws, Sampling, draw, scores_of, stream_seed, tops_of, uniforms
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
"""Prompt tokens that a step computes, unless `prefill_tokens` is given."""


@dataclass
class _Prefill:
    """An admitted prompt: the row that holds it, how many of its tokens are computed, how many the next step adds, the
    answers it starts."""

    request: Request
    row: int
    done: int
    answers: list[Answer]
    piece: int = 0

    @property
    def left(self) -> int:
        return len(self.request.prompt) - self.done

    @property
    def is_first(self) -> bool:
        """Whether it is not admitted again for answers that there was no room for."""
        return self.answers[0].index == 0


class Engine:
    """Generates with a model through a paged KV cache.

    num_blocks, block_size: the cache (default: what CACHE_BYTES holds); max_batch: answers that run at once
    prefill_tokens: tokens of prompts that a step computes at most: the fewer, the steadier running answers come
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
        prefill_tokens: int = PREFILL_TOKENS,
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
        self.prefill_tokens = prefill_tokens
        _require_room(model.config, num_blocks, block_size, max_batch, weight)
        self.pool = KvPool(num_blocks, block_size, max_seqs=max_batch, max_blocks=min(context, max(1, num_blocks - 1)))
        self.cache = PagedCache(model.config, self.pool, dtype=weight.dtype, device=weight.device)
        self._decoder = Decoder(self.model, self.cache)
        self._live: dict[Request, None] = {}  # every request that is not over, in the order of arrival
        self._waiting: deque[Request] = deque()  # those with answers that have not started
        self._half: _Prefill | None = None  # the prompt that is begun and not computed to its end
        self._running: list[Answer] = []
        self._cancelled: list[Request] = []  # to be dropped when nobody computes
        self._turns = threading.Condition()  # guards the five above and is told of every step
        self._taken = False  # whether a thread computes; it alone then removes from the first four
        self._weights = self._weight_versions()

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers to each prompt (token ids), in order. All prompts are checked before any work starts.

        Raises DoesNotFit for a prompt that with max_tokens can never fit, ConfigError for one that is empty or has
        tokens outside the vocabulary. Whatever is raised, also KeyboardInterrupt, the cache loses nothing.
        """
        self.check(prompts, sampling)
        requests = [Request(_ids(prompt), sampling) for prompt in prompts]
        self._queue(requests)
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

    def submit(
        self,
        prompt: npt.ArrayLike,
        sampling: Sampling,
        *,
        salt: bytes = b"",
        constrain: Callable[[], Constraint] | None = None,
        reader: Reader | None = None,
    ) -> Request:
        """Queue a request; those who wait, for this one or another, compute it. Errors as in `generate`.

        salt: only requests with the same one share cached prompts
        constrain: makes what says of each answer which tokens may come next
        reader: is shown the final hidden states of the prompt, all of which is then computed
        """
        self.check([prompt], sampling)
        request = Request(_ids(prompt), sampling, salt, constrain, reader)
        self._queue([request])
        return request

    def check(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> None:
        """Raises what `generate` raises before it starts."""
        arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
        _check_tokens(arrays, [token for token, _ in sampling.logit_bias], self.model.config.vocab_size)
        limit = self.pool.max_tokens
        problems = [
            NO_ROOM.problem(f"prompt {index}", tokens=len(ids), answer=sampling.max_tokens, limit=limit)
            for index, ids in enumerate(arrays)
            if len(ids) + sampling.max_tokens > limit
        ]
        if problems:
            raise DoesNotFit.of(problems)

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

    def step(self) -> None:
        """Compute the next token of every running answer, if there are any: for a thread that serves all others."""
        self._in_turn(self._step, unless=lambda: not self._live)

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
            if self._half is not None and self._half.request is request:
                for answer in self._half.answers:
                    self.pool.free(answer.row, cache=False)  # what it shares with nobody is not computed
                self._half = None
            for answer in [answer for answer in self._running if answer.request is request]:
                self._running.remove(answer)
                self._free(answer)

    def _step(self) -> None:
        """Start what fits and compute the next token of every answer, in one forward."""
        try:
            if not self._running and self._half is None:
                self._follow_weights()
            with torch.inference_mode():
                prefills = self._admit()
                logits_BV = self._forward(prefills)
                self._running += [answer for prefill in prefills if not prefill.left for answer in prefill.answers]
                self._half = next((prefill for prefill in prefills if prefill.left), None)
                if self._running:
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
            self._half = None
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

    def _queue(self, requests: list[Request]) -> None:
        with self._turns:
            self._live.update(dict.fromkeys(requests))
            self._waiting.extend(requests)

    def _admit(self) -> list[_Prefill]:
        """The prompts of which the next step computes a piece: the one that is begun, then as many waiting ones as fit.
        All but the last will be computed to their end."""
        prefills = [self._half] if self._half is not None else []
        room = self.max_batch - len(self._running) - sum(len(prefill.answers) for prefill in prefills)
        budget = self.prefill_tokens - sum(prefill.left for prefill in prefills)
        while self._waiting and room > 0 and budget > 0:
            request = self._waiting[0]
            length = len(request.prompt) + request.sampling.max_tokens
            admitted = self.pool.admit(request.prompt, salt=request.salt, max_len=length)
            if admitted is None:
                break
            row, cached = admitted
            prefill = _Prefill(request, row, cached, self._start(request, row, room))
            prefills.append(prefill)
            room -= len(prefill.answers)
            budget -= prefill.left
            if not request.pending:
                self._waiting.popleft()
        for prefill in prefills:
            prefill.piece = prefill.left
        if budget < 0:
            prefills[-1].piece += budget
        return prefills

    def _start(self, request: Request, row: int, room: int) -> list[Answer]:
        """The request's next answers: the admitted row and as many forks of it as fit. What is left is admitted
        again later and finds its prompt in the cache."""
        count = min(request.pending, room) - 1
        while (forks := self.pool.fork(row, count)) is None:
            count //= 2
        first = len(request.answers)
        answers = [
            Answer(
                request,
                first + i,
                fork,
                stream_seed(request.sampling.seed, request.prompt, first + i),
                constraint=None if request.constrain is None else request.constrain(),
            )
            for i, fork in enumerate([row, *forks])
        ]
        request.answers += answers
        return answers

    # -- one step ----------------------------------------------------------------------------------

    def _forward(self, prefills: list[_Prefill]) -> Tensor:
        """One forward over the last token of each running answer and the pieces of prompts; returns the scores of the
        next token of the running answers, then of those whose prompt is now computed."""
        last = np.array([answer.ids[-1] for answer in self._running], dtype=np.uint32)
        running = np.array([answer.row for answer in self._running], dtype=np.int64)
        served = self.pool.step(running, last, np.empty_like(running))
        assert served == len(running), "admission promised every answer its blocks"
        rows = np.append(running, [prefill.row for prefill in prefills]).astype(np.int64)
        starts = np.append(self.pool.seq_lens[running] - 1, [prefill.done for prefill in prefills]).astype(np.int64)
        new = np.append(np.ones_like(running), [prefill.piece for prefill in prefills]).astype(np.int64)
        pieces = [prefill.request.prompt[prefill.done : prefill.done + prefill.piece] for prefill in prefills]
        h_TD = self._compute(np.concatenate([last, *pieces]), rows, starts, starts + new)
        for prefill, end in zip(prefills, np.cumsum(new)[len(running) :].tolist(), strict=True):
            prefill.done += prefill.piece
            if prefill.request.reader is not None and prefill.is_first:
                prefill.request.reader.read(self.model, h_TD[end - prefill.piece : end])
        answers = [0 if prefill.left else len(prefill.answers) for prefill in prefills]
        scored = np.repeat(np.cumsum(new) - 1, np.append(np.ones_like(running), answers).astype(np.int64))
        return self.model.logits(h_TD[torch.from_numpy(scored).to(h_TD.device)])

    def _compute(self, tokens: npt.NDArray[np.uint32], rows: Ints, starts: Ints, ends: Ints) -> Tensor:
        positions_T = self.cache.plan(rows, starts, ends)
        tokens_T = torch.from_numpy(tokens.astype(np.int64)).to(positions_T.device)
        return self._decoder.step(tokens_T, positions_T)

    def _draw(self, logits_BV: Tensor) -> None:
        """Draw the next token of each running answer and end those that are over."""
        samplings = [answer.request.sampling for answer in self._running]
        constraints = [answer.constraint for answer in self._running]
        seeds = np.array([answer.seed for answer in self._running], dtype=np.uint64)
        indices = np.array([len(answer.ids) for answer in self._running])
        draws = Draws.of(samplings, uniforms(seeds, indices))
        allowed = [None if constraint is None else constraint.allowed() for constraint in constraints]
        ids_B, logps_B = draw(logits_BV, draws, scores_of(logits_BV, samplings, allowed))
        tops = tops_of(logits_BV, samplings)
        running = []
        for answer, token, logp, top in zip(self._running, ids_B.tolist(), logps_B.tolist(), tops, strict=True):
            answer.logps.append(logp)
            answer.tops.append(top)
            answer.ids.append(token)
            if answer.constraint is not None:
                answer.constraint.push(token)
            if (reason := answer.finish_reason) is None:
                running.append(answer)
                continue
            self._free(answer)
            request = answer.request
            request.completions[answer.index] = Completion(answer.ids, answer.logps, reason)
            if request.is_over:
                self._live.pop(request, None)
        self._running = running

    def _free(self, answer: Answer) -> None:
        self.pool.free(answer.row, cache=answer.request.reader is None)


def _ids(prompt: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    return np.asarray(prompt).astype(np.uint32)


def _check_tokens(prompts: list[npt.NDArray[np.int64]], biased: Sequence[int], vocab_size: int) -> None:
    known = all(0 <= token < vocab_size for token in biased)
    problems = [] if known else [OTHER_TOKENS.problem("logit_bias", size=vocab_size)]
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
