"""`Engine`: continuous batching. Requests join and leave a running batch; every step computes one token of each answer.

A request is admitted only when blocks for its longest possible answer are free (Llama 3 paper 4.2.2), so no running
answer is ever preempted or swapped. Its prompt is computed once: earlier prompts' common prefix comes from the cache,
and its n answers are forks that share the prompt's blocks. Requests are served in the order of their arrival.

Legend: T new tokens, B running answers, D model dim, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3.errors import ConfigError, DoesNotFit, Problem
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_cache import Ints, PagedCache
from llama3.inference.sampling import Draws, Sampling, draw, stream_seed, uniforms
from llama3.inference.working_copy import native_dtype, refresh, working_copy
from llama3.model.transformer import Transformer

CACHE_BYTES = 256 << 20
"""Size of the cache unless `num_blocks` is given; more if one sequence of the model's context needs it."""
PREFILL_TOKENS = 2048
"""Prompt tokens computed in one forward; a longer prompt is computed in pieces."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    ids: its tokens, the stop token that ended it included
    logps: log-probability of each under the model at temperature 1, in nats (see `llama3.inference.sampling.draw`)
    finish_reason: "stop": a stop token was drawn; "length": max_tokens were
    """

    ids: list[int]
    logps: list[float]
    finish_reason: FinishReason


@dataclass(eq=False)
class Answer:
    """One running answer: a row of the pool."""

    request: Request
    index: int
    row: int
    seed: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it is over, or None while it is not."""
        if self.ids[-1] in self.request.sampling.stop_ids:
            return "stop"
        return "length" if len(self.ids) == self.request.sampling.max_tokens else None


@dataclass(eq=False)
class Request:
    """A prompt and its answers. `completions[i]` is None until answer i is over; `answers` are those started so far."""

    prompt: npt.NDArray[np.uint32]
    sampling: Sampling
    answers: list[Answer] = field(default_factory=list)
    completions: list[Completion | None] = field(default_factory=list)

    @property
    def pending(self) -> int:
        """Answers that have not started."""
        return self.sampling.n - len(self.answers)

    @property
    def done(self) -> bool:
        return None not in self.completions


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

    `generate` and `stream` are the doors for most; a server calls `submit`, `step` and `cancel`. Cached prompts are
    forgotten when the model's parameters were changed in place since the last request (as an optimizer does); after
    any other kind of change call `reset`.
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
        self.pool = KvPool(num_blocks, block_size, max_seqs=max_batch, max_blocks=min(context, max(1, num_blocks - 1)))
        self.cache = PagedCache(model.config, self.pool, dtype=weight.dtype, device=weight.device)
        self._waiting: deque[Request] = deque()
        self._running: list[Answer] = []
        self._weights = self._weight_versions()

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """`sampling.n` answers to each prompt (token ids), in order. All prompts are checked before any work starts.

        Raises DoesNotFit for a prompt that with max_tokens can never fit, ConfigError for one that is empty or has
        tokens outside the vocabulary. Whatever is raised, also KeyboardInterrupt, the cache loses nothing.
        """
        requests = self._submit_all(prompts, sampling)
        try:
            pending = set(requests)
            while pending:
                pending.difference_update(self.step())
        finally:
            for request in requests:
                self.cancel(request)
        return [[c for c in request.completions if c is not None] for request in requests]

    def stream(self, prompt: npt.ArrayLike, sampling: Sampling) -> Iterator[int]:
        """The tokens of one answer as they are drawn, the stop token included. Leaving the loop early cancels it."""
        (request,) = self._submit_all([prompt], sampling)
        sent = 0
        try:
            while not request.done:
                self.step()
                new = request.answers[0].ids[sent:] if request.answers else []
                sent += len(new)
                yield from new
        finally:
            self.cancel(request)

    def submit(self, prompt: npt.ArrayLike, sampling: Sampling) -> Request:
        """Queue a request; `step` serves it. Errors as in `generate`."""
        return self._submit_all([prompt], sampling)[0]

    def cancel(self, request: Request) -> None:
        """Drop a request in any state; its blocks are free at once. One that is over is left alone."""
        if request in self._waiting:
            self._waiting.remove(request)
        for answer in [answer for answer in self._running if answer.request is request]:
            self._running.remove(answer)
            self.pool.free(answer.row)

    def reset(self) -> None:
        """Drop all requests and cached prompts."""
        self._waiting.clear()
        self._running.clear()
        self.pool.reset()
        self._weights = self._weight_versions()

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Start what fits and compute the next token of every answer, in one forward. Returns the requests that are
        over.

        If the model fails, all requests are dropped, the cache is emptied and the error is passed on.
        """
        try:
            prefills = self._admit()
            if not prefills and not self._running:
                return []
            logits_BV = self._forward(prefills)
            self._running += [answer for prefill in prefills for answer in prefill.answers]
            return self._draw(logits_BV)
        except BaseException:
            self.reset()
            self.cache.wipe()
            raise

    def _submit_all(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[Request]:
        arrays = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]
        self._check(arrays, sampling)
        if not self._running and self._weights != (versions := self._weight_versions()):
            if self.model is not self._source:
                refresh(self.model, self._source)
            self.pool.reset()
            self._weights = versions
        requests = [Request(ids.astype(np.uint32), sampling, completions=[None] * sampling.n) for ids in arrays]
        self._waiting.extend(requests)
        return requests

    def _check(self, prompts: list[npt.NDArray[np.int64]], sampling: Sampling) -> None:
        _check_tokens(prompts, self.model.config.vocab_size)
        limit = self.pool.max_tokens
        problems = [
            Problem(
                "L3-GEN-005",
                f"prompt {index}",
                f"{len(ids)} tokens and an answer of up to {sampling.max_tokens} do not fit",
                f"the cache holds at most {limit} tokens of one sequence",
                "shorten the prompt or lower max_tokens",
            )
            for index, ids in enumerate(prompts)
            if len(ids) + sampling.max_tokens > limit
        ]
        if problems:
            raise DoesNotFit(problems)

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

    def _draw(self, logits_BV: Tensor) -> list[Request]:
        """Draw the next token of each running answer and end those that are over."""
        seeds = np.array([answer.seed for answer in self._running], dtype=np.uint64)
        indices = np.array([len(answer.ids) for answer in self._running])
        draws = Draws.of([answer.request.sampling for answer in self._running], uniforms(seeds, indices))
        ids_B, logps_B = draw(logits_BV, draws)
        running, done = [], []
        for answer, token, logp in zip(self._running, ids_B.tolist(), logps_B.tolist(), strict=True):
            answer.ids.append(token)
            answer.logps.append(logp)
            if (reason := answer.finish_reason) is None:
                running.append(answer)
                continue
            self.pool.free(answer.row)
            request = answer.request
            request.completions[answer.index] = Completion(answer.ids, answer.logps, reason)
            if request.done:
                done.append(request)
        self._running = running
        return done

    def _weight_versions(self) -> list[tuple[int, int]]:
        """Changes whenever a tensor of the model is changed in place or replaced."""
        tensors = chain(self._source.parameters(), self._source.buffers())
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors if not tensor.is_inference()]


def _check_tokens(prompts: list[npt.NDArray[np.int64]], vocab_size: int) -> None:
    problems = []
    for index, ids in enumerate(prompts):
        if ids.ndim != 1 or len(ids) == 0:
            fix = "give the ids of a begin-of-text token and the text"
            problems.append(Problem("L3-GEN-003", f"prompt {index}", "has no tokens", fix=fix))
        elif ids.min() < 0 or ids.max() >= vocab_size:
            what = f"has tokens outside the model's vocabulary of {vocab_size}"
            fix = "encode it with this model's tokenizer"
            problems.append(Problem("L3-GEN-004", f"prompt {index}", what, fix=fix))
    if problems:
        raise ConfigError(problems)


class Generate:
    """An engine behind one call, for those who sample from a model that is being trained: it sees the weights as they
    are at each call (the `Generate` protocol of llama3.posttraining.services)."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(
        self,
        prompts: Sequence[npt.ArrayLike],
        *,
        n: int,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        stop_ids: frozenset[int],
    ) -> list[list[Completion]]:
        return self.engine.generate(prompts, Sampling(max_tokens, temperature, top_p, 0, n, seed, stop_ids))


def open_generate(model: Transformer) -> Generate:
    """A sampler over `model` with a batch and a precision for throughput."""
    return Generate(Engine(model, max_batch=128, dtype=native_dtype(model)))
