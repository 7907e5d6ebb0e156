"""`Service`: one thread owns the model; requests reach it through bounded queues and come back token by token.

The event loop never computes and the engine's thread never waits for a client: `submit` and `cancel` are called in the
loop, what is drawn is handed to the loop once a step. The engine gets as many answers as it can run; what waits beyond
that waits here, and the tenant that was given the fewest tokens is next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llama3.config.serving import KvDtype, Speculative
from llama3.errors import LlamaError
from llama3.fair_queue import FairQueue
from llama3.inference.completion import FinishReason
from llama3.inference.engine import Engine
from llama3.inference.ranks import LOST, Leader
from llama3.inference.request import Constraint, Reader, Request
from llama3.inference.sampling import Sampling, Top
from llama3.model.transformer import Transformer
from llama3.serving.limits import RateLimits
from llama3.serving.problems import BUSY, FAULT, STOPPING

log = logging.getLogger(__name__)
MAX_BATCH = 32
MAX_QUEUE = 256
PREFILL_TOKENS = 256
"""Tokens of prompts in a step: what a running answer waits for at most when a long prompt comes."""

CHECK_SECONDS = 1.0
"""How often an idle engine is asked whether all that compute for it are there."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """New tokens of an answer, at least one; `reason` with the last of them."""

    ids: list[int]
    logps: list[float]
    tops: list[Top]
    reason: FinishReason | None


@dataclass(eq=False)
class Job:
    """A prompt of a tenant with its answers. `next` gives what is drawn of each."""

    prompt: npt.NDArray[np.uint32]
    sampling: Sampling
    constrain: Callable[[], Constraint] | None = None
    reader: Reader | None = None
    tenant: str = ""
    request: Request | None = None
    """Of the engine, once it has the job."""
    times: dict[str, float] = field(init=False, default_factory=dict)
    """Of time.monotonic(): when it was "queued" and "begun", when its "first" token was drawn and its "last"."""
    _news: list[asyncio.Queue[Drawn | LlamaError]] = field(init=False)
    _sent: list[int] = field(init=False)
    closed: set[int] = field(init=False, default_factory=set)
    """The answers that nobody reads any more."""

    def __post_init__(self) -> None:
        self._news = [asyncio.Queue() for _ in range(self.sampling.n)]
        self._sent = [0] * self.sampling.n

    @property
    def most_tokens(self) -> int:
        """Of the prompt and its answers."""
        return len(self.prompt) + self.sampling.n * self.sampling.max_tokens

    @property
    def used_tokens(self) -> int:
        """Of the prompt and its answers, as far as it was begun."""
        return 0 if self.request is None else len(self.prompt) + sum(self._sent)

    async def next(self, index: int) -> Drawn:
        """What comes next of answer `index`. Raises LlamaError where no more of it will."""
        news = await self._news[index].get()
        if isinstance(news, LlamaError):
            raise news
        return news

    def close(self, index: int) -> bool:
        """Nobody reads answer `index` any more; whether that was the last one."""
        self.closed.add(index)
        return len(self.closed) == self.sampling.n

    @property
    def running(self) -> int:
        """Answers that the engine has to run."""
        assert self.request is not None
        return self.request.completions.count(None)

    def fail(self, error: LlamaError) -> None:
        """No more of any answer will come."""
        for news in self._news:
            news.put_nowait(error)

    def drawn(self) -> list[tuple[asyncio.Queue[Drawn | LlamaError], Drawn]]:
        """What was drawn since this was last asked; in the thread that computes."""
        assert self.request is not None
        found = []
        for index, answer in self.request.answers.items():
            sent, completion = self._sent[index], self.request.completions[index]
            if sent == len(answer.ids):
                continue
            self._sent[index] = len(answer.ids)
            reason = completion.finish_reason if completion is not None else None
            new = Drawn(answer.ids[sent:], answer.logps[sent:], answer.tops[sent:], reason)
            found.append((self._news[index], new))
            self.times["last"] = time.monotonic()
            self.times.setdefault("first", self.times["last"])
        return found


class Service:
    """Answers the requests of one event loop with one engine.

    Where ranks share the model and one of them is lost, all work ends with that error, which is `lost` from then on.

    max_batch: answers that run at once; max_queue: requests of one tenant that may wait
    prefill_tokens: see `PREFILL_TOKENS`; limits: the rates of tenants; speculative, kv_dtype, ranks: see `Engine`
    """

    def __init__(
        self,
        model: Transformer,
        *,
        max_batch: int = MAX_BATCH,
        max_queue: int = MAX_QUEUE,
        prefill_tokens: int = PREFILL_TOKENS,
        limits: RateLimits | None = None,
        speculative: Speculative = "off",
        kv_dtype: KvDtype = "auto",
        ranks: Leader | None = None,
    ) -> None:
        self.limits = limits or RateLimits()
        self.engine = Engine(
            model,
            max_batch=max_batch,
            prefill_tokens=prefill_tokens,
            speculative=speculative,
            kv_dtype=kv_dtype,
            ranks=ranks,
        )
        self.max_tokens = self.engine.pool.max_tokens
        """Of a prompt with its answer."""
        self.max_queue = max_queue
        self.lost: LlamaError | None = None
        self.draining = False
        """Whether new requests are refused; those that were taken go on."""
        self.aborted: asyncio.Future[LlamaError]
        """Why all work has ended, once it has."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Job] = set()  # the loop's: those that somebody reads
        self._changed = threading.Condition()  # guards what follows and is told of every change
        self._waiting = FairQueue[Job]()  # by tokens
        self._running: list[Job] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # -- the event loop's side ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin to compute for the running event loop."""
        self._loop = asyncio.get_running_loop()
        self.aborted = self._loop.create_future()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it computes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken now."""
        return self._thread.is_alive() and not self.draining

    def submit(self, jobs: Sequence[Job], tenant: str = "") -> None:
        """Queue jobs: all of them, or none. Raises LlamaError where the queue is full or the server stops, and what
        `Engine.submit` raises."""
        if not self.is_ready:
            raise STOPPING()
        for job in jobs:
            self.engine.check([job.prompt], job.sampling)
            job.tenant = tenant
            job.times["queued"] = time.monotonic()
        with self._changed:
            waiting = self._waiting.waiting(tenant)
            if waiting + len(jobs) > self.max_queue:
                raise BUSY(waiting=waiting, limit=self.max_queue)
            self.limits.take(tenant, "tokens", sum(job.most_tokens for job in jobs))
            self._waiting.push(tenant, jobs)
            self._changed.notify_all()
        self._open.update(jobs)

    def close(self, job: Job, index: int) -> None:
        """Nobody reads this answer of the job any more: it is dropped, and with the last one the job."""
        with self._changed:
            is_last, request = job.close(index), job.request
        if is_last:
            self.cancel(job)
        elif request is not None:
            self.engine.cancel(request, index)

    def cancel(self, job: Job) -> None:
        """Drop a job in any state; its blocks are free after the step that is being computed."""
        if job in self._open:
            self._open.discard(job)
            self.limits.give_back(job.tenant, "tokens", job.most_tokens - job.used_tokens)
        with self._changed:
            if job.request is None:
                self._waiting.remove(job.tenant, job)
                return
        self.engine.cancel(job.request)

    def abort(self, error: LlamaError) -> None:
        """End all work with this error."""
        if not self.aborted.done():
            self.aborted.set_result(error)
        for job in list(self._open):
            job.fail(error)
            self.cancel(job)

    def counts(self) -> dict[str, int]:
        """Now: jobs that wait, answers that run, and the figures of the cache (`KvPool.stats`); since the start: tokens
        that were guessed, and those of them that were right."""
        with self._changed:
            waiting = len(self._waiting)
            running = sum(job.running for job in self._running)
        decoder = self.engine.decoder
        guessed = {"drafted": decoder.drafted, "accepted": decoder.accepted}
        return {**self.engine.pool.stats(), **guessed, "waiting": waiting, "running": running}

    # -- the engine's thread -----------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                fault: Exception | None = None
                try:
                    self.engine.step()
                except Exception as error:
                    fault = error  # its requests have it
                    log.exception("the engine failed in a step")
                if isinstance(fault, LlamaError) and fault.problems[0].code == LOST.code:
                    self.lost = fault
                self._hand_back(fault)
        except BaseException:
            log.exception("the engine's thread ended")
        finally:
            self._tell(lambda: self.abort(self.lost or STOPPING()))

    def _wait_for_work(self) -> bool:
        """Give the engine what it can run. False: the service has stopped, or will compute nothing any more."""
        while self.lost is None and not self._has_work():
            try:
                self.engine.forwards.check()
            except LlamaError as error:
                self.lost = error
        if self.lost is not None:
            return False
        with self._changed:
            room = self.engine.max_batch - sum(job.running for job in self._running)
            while room > 0 and self._waiting:
                job = self._waiting.pop()
                job.request = self.engine.submit(
                    job.prompt,
                    job.sampling,
                    salt=job.tenant.encode(),
                    constrain=job.constrain,
                    reader=job.reader,
                )
                for index in job.closed:
                    self.engine.cancel(job.request, index)
                self._waiting.charge(job.tenant, len(job.prompt))
                job.times["begun"] = time.monotonic()
                self._running.append(job)
                room -= job.running
            return not self._stopped

    def _has_work(self) -> bool:
        """Wait for it, or for a while."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._stopped or self._running or self._waiting, CHECK_SECONDS))

    def _hand_back(self, fault: Exception | None) -> None:
        """Pass on what a step drew, and the errors of jobs that will get no more. `fault`: the one that all have."""
        running, news, failed, given = [], [], [], []
        for job in self._running:
            drawn = job.drawn()
            news += drawn
            given.append((job.tenant, sum(len(new.ids) for _, new in drawn)))
            assert job.request is not None
            if (error := job.request.error) is not None:
                failed.append((job, _told(error)))
                if error is not fault and not isinstance(error, CancelledError):
                    log.error("a request failed", exc_info=error)
            elif not job.request.is_over:
                running.append(job)
        with self._changed:
            self._running = running
            for tenant, tokens in given:
                self._waiting.charge(tenant, tokens)
        self._tell(lambda: _deliver(news, failed))

    def _tell(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)


def _deliver(news: list[tuple[asyncio.Queue[Drawn | LlamaError], Drawn]], failed: list[tuple[Job, LlamaError]]) -> None:
    for queue, drawn in news:
        queue.put_nowait(drawn)
    for job, error in failed:
        job.fail(error)


def _told(error: BaseException) -> LlamaError:
    """What a client is told of it: of our own errors all, of others nothing."""
    return error if isinstance(error, LlamaError) else FAULT()
