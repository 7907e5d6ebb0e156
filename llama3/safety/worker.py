"""The thread of a guard, and the queue before it: whatever the guard does there, whoever waits is not held up.

A guard may be plain or asynchronous, block its thread, swallow its cancellation or try to end the program. It has a
thread and an event loop of its own, in which it is opened, asked and closed; what it raises comes back as a value.
Checks wait in a fair queue, and the time that one may take counts from when the guard begins it.

A thread cannot be killed. One that is held by a check whose time is up is abandoned: another one goes on with a guard
that is built and opened anew, and where it comes back after all, its guard is closed there. Only so many are abandoned
at once: a guard that always hangs has no answer from then on, until one of them comes back.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from llama3.errors import LlamaError
from llama3.fair_queue import FairQueue
from llama3.safety.guard import Guard

BUSY = LlamaError.declare(
    "L3-SAF-030",
    "{waiting} texts wait for the guard {guard!r} already",
    why="as many of one key may wait",
    fix="ask again later",
)

AT_ONCE = 32
"""Checks that are under way at a guard that awaits and does not say how many (`at_once`); one that does not await has
one."""
MOST_ABANDONED = 4
"""Threads of a guard that may hang."""
TURNING_SECONDS = 0.5
"""How long a thread may take to turn to something else when a check's time is up, or its guard is to be closed."""

Ask = Callable[[Guard, float], Any]
"""Asks a guard; the second is when that begins, in seconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What a call raised, of any class."""

    error: BaseException


@dataclass(eq=False, slots=True)
class GuardCheck:
    """A question on its way to a guard. `began` is in seconds of the monotonic clock; `answer` is what the guard gave,
    and after how many seconds; `over` is there when the guard does no more for it, whoever still waits."""

    ask: Ask
    tenant: str
    limit: float
    began: Future[float] = field(default_factory=Future)
    answer: Future[tuple[Any, float]] = field(default_factory=Future)
    over: Future[None] = field(default_factory=Future)
    thread: GuardThread | None = None


class Worker:
    """Asks the guard that `build` makes. Its thread is started at the first call, ended by `stop` or with the last
    reference to it."""

    def __init__(self, name: str, build: Callable[[], Guard]) -> None:
        self.name = name
        self.guard = build()
        self._build = build
        self._lock = threading.RLock()  # for what follows
        self._queue = FairQueue[GuardCheck]()  # by seconds
        self._thread: GuardThread | None = None
        self._end: Callable[[], object] = lambda: None
        self._under_way: set[GuardCheck] = set()
        self._abandoned: set[GuardThread] = set()
        self._is_closed = False
        self._failure = ""  # why there is no thread
        self._is_held = False

    @property
    def at_once(self) -> int:
        """Checks that may be under way."""
        return int(getattr(self.guard, "at_once", AT_ONCE))

    @property
    def is_down(self) -> bool:
        """Whether there is no thread in which the guard could be asked, nor will be before one comes back."""
        return bool(self._failure)

    def open(self, limit: float) -> Any:
        """Open the guard; what that gave, or a `Raised`. Raises TimeoutError where that takes over `limit` seconds: its
        thread is left to itself then."""
        self._is_closed = False
        return self._call(self.guard.open).result(limit)

    async def check(self, ask: Ask, tenant: str, limit: float, most: int | None) -> Any:
        """What `ask` gives, or a `Raised`.

        Raises TimeoutError where that takes over `limit` seconds from its beginning, or the guard cannot be asked, and
        LlamaError where `most` checks of the tenant wait already.
        """
        check = self._submit(GuardCheck(ask, tenant, limit), most)
        try:
            began = await asyncio.wrap_future(check.began)
            answer = asyncio.wrap_future(check.answer)
            await asyncio.wait({answer}, timeout=began + limit - time.monotonic())
            if not answer.done():
                raise TimeoutError
            result, seconds = answer.result()
            if seconds > limit:
                raise TimeoutError
            return result
        finally:
            self._leave(check)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Begin none of the checks that are submitted meanwhile: then they are begun side by side, however fast this
        thread is and however fast the guard's."""
        self._is_held = True
        try:
            yield
        finally:
            with self._lock:
                self._is_held = False
                thread = self._running()
            thread.soon(self._begin, thread)

    def close(self) -> tuple[Future[Any], Future[Any]]:
        """Begin to close the guard. The first is there when its thread turns to that, the second is what it gave."""
        with self._lock:
            self._is_closed = True
            if self._thread is None and self._abandoned:
                return Future(), Future()
            turned = self._call(lambda: None)
            return Future() if self._abandoned else turned, self._call(self.guard.close)

    def stop(self, last: Future[Any]) -> None:
        """End the thread once `last` is there; the next call starts another."""
        with self._lock:
            end, self._thread = self._end, None
        last.add_done_callback(lambda _: end())

    def _call(self, call: Callable[[], Any]) -> Future[Any]:
        with self._lock:
            return self._running().call(call)

    def _running(self) -> GuardThread:
        return self._thread or self._start(GuardThread(self.name, self.guard))

    def _start(self, thread: GuardThread) -> GuardThread:
        self._thread = thread
        self._end = weakref.finalize(self, thread.end)
        return thread

    # -- checks ------------------------------------------------------------------------------------

    def _submit(self, check: GuardCheck, most: int | None) -> GuardCheck:
        with self._lock:
            if self._failure:
                raise TimeoutError(self._failure)
            if most is not None and (waiting := self._queue.waiting(check.tenant)) >= most:
                raise BUSY("guard", waiting=waiting, guard=self.name)
            self._queue.push(check.tenant, [check])
            thread = self._running()
        thread.soon(self._begin, thread)
        return check

    def _begin(self, thread: GuardThread) -> None:
        """Begin the next check; in the guard's thread."""
        with self._lock:
            if self._is_held or thread is not self._thread or not thread.is_open or thread.is_beginning:
                return
            if not self._queue or max(len(self._under_way), len(thread.overdue)) >= self.at_once:
                return
            check = self._queue.pop()
            check.thread = thread
            self._under_way.add(check)
        thread.is_beginning = True
        task = thread.loop.create_task(self._run(check, thread))
        check.answer.add_done_callback(lambda answer: thread.soon(task.cancel) if answer.cancelled() else None)
        # After the first step of this one: where checks do not await, the next is chosen when this one is over.
        thread.loop.call_soon(self._has_begun, thread)

    def _has_begun(self, thread: GuardThread) -> None:
        thread.is_beginning = False
        self._begin(thread)

    async def _run(self, check: GuardCheck, thread: GuardThread) -> None:
        began = time.monotonic()
        if check.began.set_running_or_notify_cancel():
            check.began.set_result(began)
            result = await _caught(lambda: check.ask(thread.guard, began))
        else:
            result = None
        seconds = time.monotonic() - began
        # Before the answer is there: whoever waits for it finds the check gone.
        with self._lock:
            self._queue.charge(check.tenant, seconds)
            self._under_way.discard(check)
            thread.overdue.discard(check)
        with suppress(InvalidStateError):  # nobody waits any more
            check.answer.set_result((result, seconds))
        check.over.set_result(None)
        self._begin(thread)

    def _leave(self, check: GuardCheck) -> None:
        """Nobody waits for this check any more."""
        with self._lock:
            self._queue.remove(check.tenant, check)
            thread = check.thread
            if check.began.cancel() or thread is None:
                return
            if check in self._under_way:
                self._under_way.discard(check)
                thread.overdue.add(check)
        if check.answer.cancel():
            threading.Thread(target=self._watch, args=(check, thread), name=f"watch {self.name}", daemon=True).start()
            thread.soon(self._begin, thread)

    # -- threads that hang -------------------------------------------------------------------------

    def _watch(self, check: GuardCheck, thread: GuardThread) -> None:
        """See whether a check that was left ends in its time, or lets the thread turn to others."""
        left = check.began.result() + check.limit - time.monotonic()
        if wait([check.over], max(0.0, left) + TURNING_SECONDS).done:
            return
        turned = thread.call(lambda: None)
        has_turned = bool(wait([turned], TURNING_SECONDS).done)
        with self._lock:
            if thread is not self._thread or self._is_closed or (has_turned and len(thread.overdue) < self.at_once):
                return
            self._abandoned.add(thread)
            self._under_way.clear()
            self._thread = None
            self._go_on()
        turned.add_done_callback(lambda _: self._came_back(thread))

    def _go_on(self) -> None:
        """In another thread, where another may hang; else nothing waits any longer."""
        if self._is_closed or self._thread is not None:
            return
        if len(self._abandoned) >= MOST_ABANDONED:
            self._fail("the guard hangs")
            return
        self._failure = ""
        thread = self._start(GuardThread(self.name, self.guard, is_open=False))
        thread.call(lambda: self._renew(thread)).add_done_callback(lambda renewed: self._renewed(thread, renewed))

    async def _renew(self, thread: GuardThread) -> None:
        thread.guard = self._build()
        await settled(thread.guard.open())

    def _renewed(self, thread: GuardThread, renewed: Future[Any]) -> None:
        with self._lock:
            if isinstance(renewed.result(), Raised):
                self._thread = None
                self._fail("the guard could not be opened again")
                thread.end()
                return
            self.guard, thread.is_open = thread.guard, True
        thread.soon(self._begin, thread)

    def _fail(self, why: str) -> None:
        self._failure = why
        while self._queue:
            check = self._queue.pop()
            if check.began.set_running_or_notify_cancel():
                check.began.set_exception(TimeoutError(why))

    def _came_back(self, thread: GuardThread) -> None:
        with self._lock:
            self._abandoned.discard(thread)
            self._go_on()
        thread.call(thread.guard.close).add_done_callback(lambda _: thread.end())


class GuardThread:
    """A thread with an event loop for a guard. `overdue`: checks in it that have not ended and nobody waits for."""

    def __init__(self, name: str, guard: Guard, *, is_open: bool = True) -> None:
        self.guard, self.is_open, self.is_beginning = guard, is_open, False
        self.overdue: set[GuardCheck] = set()
        self.loop = asyncio.new_event_loop()
        # A daemon: a guard that hangs does not keep the program from ending.
        threading.Thread(target=_serve, args=(self.loop,), name=f"guard {name}", daemon=True).start()

    def call(self, call: Callable[[], Any]) -> Future[Any]:
        """Begin `call()`, which may be a coroutine; its result, or a `Raised`, is the future's. Of a thread that has
        ended it never is."""
        asked = _caught(call)
        try:
            return asyncio.run_coroutine_threadsafe(asked, self.loop)
        except RuntimeError:
            asked.close()
            return Future()

    def soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call it there, unless the thread has ended."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(call, *arguments)

    def end(self) -> None:
        """Let the thread end."""
        self.soon(self.loop.stop)


async def _caught(call: Callable[[], Any]) -> Any:
    # BaseException: SystemExit and KeyboardInterrupt would end the loop, and with it every later answer.
    try:
        return await settled(call())
    except BaseException as error:
        return Raised(error)


async def settled(result: Any) -> Any:
    """What a call returned that may be plain or asynchronous, once it is there."""
    return await result if inspect.isawaitable(result) else result


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda *_: None)  # what a guard leaves behind when it is ended is not worth a line
    try:
        loop.run_forever()
    finally:
        loop.close()
