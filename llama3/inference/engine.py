"""`Engine`: continuous batching. Requests join and leave a running batch; every step computes one token of each answer,
or several that were guessed right (llama3.inference.speculation).

A request is admitted only when blocks for its longest possible answer are free (Llama 3 paper 4.2.2), so no running
answer is ever preempted or swapped. Its prompt is computed once: earlier prompts' common prefix comes from the cache,
and its n answers are forks that share the prompt's blocks. Requests are served in the order of their arrival.

A step computes at most `prefill_tokens` of prompts: a long one takes several, in each of which every running answer
gets its token. No other prompt starts while one is half computed, so whatever is found in the cache was computed
before it is read.

A pipeline of several processes (`ranks`) has a forward under way in each of its stages: the running answers are that
many micro-batches. A step launches those that are idle, then draws from the forward that was launched first. Whatever
a forward reads of the cache, forwards that were launched before it write earlier: every stage computes in that order.

Many threads may read from one engine. None of them owns it: whoever waits for a token while nobody computes takes the
next step, for all (`Engine._in_turn`). So a lone reader computes in its own thread, and readers that come together
share every forward. A server gives it a thread that calls `step`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch

from llama3.config.precision import AutoPrecision
from llama3.config.serving import KvDtype, Speculative
from llama3.inference.checks import check_prompts, longest_kept, require_memory
from llama3.inference.completion import Completion
from llama3.inference.decoding import Decoder, Flight
from llama3.inference.forwards import Forwards, WholeForwards
from llama3.inference.kv_codes import codes_of
from llama3.inference.kv_pool import KvPool
from llama3.inference.paged_attention import Way
from llama3.inference.paged_cache import PagedCache
from llama3.inference.ranks import Leader
from llama3.inference.request import Answer, Constraint, Prefill, Reader, Request
from llama3.inference.sampling import Sampling, stream_seed
from llama3.inference.speculation import draft_rows
from llama3.inference.working_copy import refresh, sampling_dtype, working_copy
from llama3.model.transformer import Transformer

CACHE_BYTES = 256 << 20
"""Size of the cache unless `num_blocks` is given; more if one sequence of the model's context needs it."""
GPU_SHARE = 4
"""A GPU's memory is there to be used: on it the cache is one part in so many of what is free."""
LARGE_BATCH, LARGEST_BATCH, SMALL_MODEL = 128, 512, 20_000_000
"""Answers at once where only their number per second counts. Of a model with few parameters most of a step's time does
not depend on the batch, so it takes the largest."""
PREFILL_TOKENS = 2048
"""Prompt tokens that a step computes, unless `prefill_tokens` is given."""


class Engine:
    """Generates with a model through a paged KV cache.

    num_blocks, block_size: the cache (default: what CACHE_BYTES, or a share of the GPU's free memory, holds)
    max_batch: answers that run at once
    prefill_tokens: tokens of prompts that a step computes at most: the fewer, the steadier running answers come
    dtype: precision of computation; another than the model's means a copy of its weights
    speculative: "prompt_lookup" guesses tokens of answers that repeat their prompt or themselves; ids stay the same
    attention: how the cache is read (see paged_attention.py; default: the fastest way that works on the device)
    kv_dtype: "int8" or "fp8" keeps keys and values as codes of a byte: more tokens fit into the same memory
    ranks: the processes that share the model, of which `model` is this one's part; dtype and attention are theirs

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
        speculative: Speculative = "off",
        attention: Way | None = None,
        kv_dtype: KvDtype = "auto",
        ranks: Leader | None = None,
    ) -> None:
        self._source = model
        copied = dtype not in (None, model.embed.weight.dtype)
        self.model = working_copy(model, dtype) if dtype is not None and copied else model
        weight = self.model.embed.weight
        context = -(-model.config.max_seq_len // block_size)
        codes = codes_of(kv_dtype)
        kept = model.config if ranks is None else ranks.kept
        block_bytes = PagedCache.block_bytes(kept, block_size, weight.dtype, codes)
        if num_blocks is None:
            num_blocks = 1 + max(context, min(_cache_bytes(weight.device) // block_bytes, max_batch * context))
        self.max_batch = max_batch
        self.prefill_tokens = prefill_tokens
        require_memory(num_blocks, block_size, block_bytes, max_batch, weight.device)
        self.pool = KvPool(num_blocks, block_size, max_seqs=max_batch, max_blocks=min(context, max(1, num_blocks - 1)))
        if ranks is None:
            self.cache = PagedCache(
                kept, self.pool, dtype=weight.dtype, device=weight.device, attention=attention, codes=codes
            )
            self.forwards: Forwards = WholeForwards(self.model, self.cache)
        else:
            self.cache, self.forwards = ranks.begin(self.pool, kv_dtype), ranks
        rows = draft_rows(speculative, weight.dtype)
        self.decoder = Decoder(self.pool, self.forwards, fail=self._end, draft_rows=rows)
        self._live: dict[Request, None] = {}  # every request that is not over, in the order of arrival
        self._waiting: deque[Request] = deque()  # those with answers that have not started
        self._half: Prefill | None = None  # the prompt that is begun and not computed to its end
        self._running: list[Answer] = []  # those whose next token is not being computed
        self._flights: deque[Flight] = deque()  # the forwards under way, the one that was launched first in front
        self._ended: list[Request] = []  # of which something is to be dropped when nobody computes
        self._turns = threading.Condition()  # guards the six above and is told of every step
        self._taken = False  # whether a thread computes; it alone then removes from the first five
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
        check_prompts(prompts, sampling, self.model.config.vocab_size, self.pool.max_tokens)

    def tokens(self, request: Request, index: int = 0) -> Iterator[int]:
        """The tokens of the request's answer `index` as they are drawn. Raises what the model raised, or the request's
        constraint or reader, or CancelledError when another thread cancelled the request."""
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
        self._in_turn(self._step, unless=lambda: not self._live and not self._flights)

    def cancel(self, request: Request, index: int | None = None) -> None:
        """Drop a request in any state, or only its answer `index`, which is then over with the tokens that it has. Its
        blocks are free at once, or after the forward that computes it. What is over is left alone."""
        if index is None:
            self._end(request, CancelledError("the request was cancelled"))
            return
        with self._turns:
            if not request.is_over and request.completions[index] is None:
                request.cancel(index)
                self._let_go(request)

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
                    self._drop_ended()
                    self._taken = False
                    self._turns.notify_all()

    def _end(self, request: Request, error: Exception) -> None:
        """There will be no more of the request for this reason."""
        with self._turns:
            if request.is_over:
                return
            request.error = error
            self._let_go(request)

    def _let_go(self, request: Request) -> None:
        self._ended.append(request)
        if not self._taken:
            self._drop_ended()

    def _drop_ended(self) -> None:
        """Free what requests hold that ended, or some answers of which did."""
        while self._ended:
            request = self._ended.pop()
            for answer in [answer for answer in self._running if answer.request is request and answer.is_over]:
                self._running.remove(answer)
                self._free(answer)
            request.unstarted = deque(index for index in request.unstarted if request.completions[index] is None)
            if (request.is_over or not request.unstarted) and request in self._waiting:
                self._waiting.remove(request)
            if not request.is_over:
                continue
            self._live.pop(request, None)
            if self._half is not None and self._half.request is request:
                for answer in self._half.answers:
                    self.pool.free(answer.row, cache=False)  # what it shares with nobody is not computed
                self._half = None

    def _step(self) -> None:
        """Launch as many forwards as may be under way, and draw from the first of them."""
        try:
            if not self._running and self._half is None and not self._flights:
                self._follow_weights()
            with torch.inference_mode():
                while len(self._flights) < self.forwards.depth and (flight := self._launch()) is not None:
                    self._flights.append(flight)
                while self._flights:
                    self.decoder.finish(self._flights[0])
                    self._running += self._flights.popleft().answers
                    self._finish()
                    if self._live:
                        break
        except BaseException as error:
            self._abandon(error)
            raise

    def _launch(self) -> Flight | None:
        """A forward over what fits and is not under way: a micro-batch of the running answers, and pieces of prompts.
        None where there is nothing."""
        share = -(-(len(self._running) + self._under_way) // self.forwards.depth)
        chosen, self._running = self._running[:share], self._running[share:]
        prefills = self._admit(taken=len(chosen))
        if not chosen and not prefills:
            return None
        flight = self.decoder.launch(chosen, self.decoder.drafts(chosen), prefills)
        self._half = next((prefill for prefill in prefills if prefill.left), None)
        return flight

    @property
    def _under_way(self) -> int:
        """Answers whose next token is being computed."""
        return sum(len(flight.answers) for flight in self._flights)

    def _abandon(self, error: BaseException) -> None:
        """Nothing in the cache can be trusted after a step that broke off. What the model raises is every request's; an
        interrupt is meant for the thread it reached, so the requests begin again and those of the others go on."""
        with self._turns:
            requests = [request for request in self._live if not request.is_over]
            self._live.clear()
            self._waiting.clear()
            self._running.clear()
            self._flights.clear()
            self._half = None
            self._ended.clear()
            for request in requests:
                if isinstance(error, Exception):
                    request.error = error
                else:
                    request.restart()
                    self._live[request] = None
                    self._waiting.append(request)
        self._forget()
        self.forwards.wipe()

    def _forget(self) -> None:
        self.pool.reset()
        self._weights = []  # those of no model, so that the next step follows

    def _follow_weights(self) -> None:
        """What was computed with other weights is of no use."""
        versions = self._weight_versions()
        if self._weights != versions:
            if self.model is not self._source:
                refresh(self.model, self._source)
            self.forwards.follow_weights()
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

    def _admit(self, taken: int) -> list[Prefill]:
        """The prompts of which the next forward computes a piece: the one that is begun, then as many waiting ones as
        fit beside the running answers, of which the forward has `taken`. All but the last will be computed to their
        end."""
        prefills = [self._half] if self._half is not None else []
        running = taken + len(self._running) + self._under_way
        room = self.max_batch - running - sum(len(prefill.answers) for prefill in prefills)
        budget = max(1, self.prefill_tokens // self.forwards.depth) - sum(prefill.left for prefill in prefills)
        while self._waiting and room > 0 and budget > 0:
            request = self._waiting[0]
            longest = longest_kept(request.prompt, request.sampling)
            admitted = self.pool.admit(request.prompt, salt=request.salt, max_len=longest)
            if admitted is None:
                break
            row, cached = admitted
            is_first = not request.answers
            prefill = Prefill(request, row, cached, self._start(request, row, room), is_first)
            prefills.append(prefill)
            room -= len(prefill.answers)
            budget -= prefill.left
            if not request.unstarted:
                self._waiting.popleft()
        for prefill in prefills:
            prefill.piece = prefill.left
        if budget < 0:
            prefills[-1].piece += budget
        return prefills

    def _start(self, request: Request, row: int, room: int) -> list[Answer]:
        """The request's next answers: the admitted row and as many forks of it as fit. What is left is admitted
        again later and finds its prompt in the cache."""
        count = min(len(request.unstarted), room) - 1
        while (forks := self.pool.fork(row, count)) is None:
            count //= 2
        rows = {request.unstarted.popleft(): fork for fork in (row, *forks)}
        seeds = {index: stream_seed(request.sampling.seed, request.prompt, index) for index in rows}
        answers = {
            index: Answer(request, index, fork, seeds[index], lookup=self.decoder.lookup(request))
            for index, fork in rows.items()
        }
        request.answers.update(answers)
        return list(answers.values())

    def _finish(self) -> None:
        """End the running answers that are over."""
        running = []
        for answer in self._running:
            request = answer.request
            if not answer.is_over:
                if (reason := answer.finish_reason) is None:
                    running.append(answer)
                    continue
                request.completions[answer.index] = Completion(answer.ids, answer.logps, reason)
            self._free(answer)
            if request.is_over:
                self._live.pop(request, None)
        self._running = running

    def _free(self, answer: Answer) -> None:
        self.pool.free(answer.row, cache=answer.request.reader is None)


def _ids(prompt: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    return np.asarray(prompt).astype(np.uint32)


def throughput_engine(model: Transformer, precision: AutoPrecision = "auto") -> Engine:
    """An engine for many prompts at once: a large batch, and a precision (see `sampling_dtype`)."""
    parameters = sum(weight.numel() for weight in model.parameters())
    batch = LARGE_BATCH if parameters > SMALL_MODEL else LARGEST_BATCH
    return Engine(model, max_batch=batch, dtype=sampling_dtype(model, precision))


def _cache_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // GPU_SHARE if device.type == "cuda" else CACHE_BYTES
