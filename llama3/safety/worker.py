"""The thread of a guard: whatever the guard does there, whoever waits for its answer is not held up.

A guard may be plain or asynchronous, block its thread, swallow its cancellation or try to end the program. It has a
thread and an event loop of its own, in which it is opened, asked and closed; what it raises comes back as a value. A
thread cannot be killed: one that hangs goes on in the background, its guard has no answer meanwhile, and the program
may end all the same.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raised:
    """What a call raised, of any class."""

    error: BaseException


class Worker:
    """Calls functions in a thread of its own, one after the other where they do not await. Started at the first call,
    ended by `stop` or with the last reference to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] = lambda: None

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """Begin `call()`, which may be a coroutine; its result, or a `Raised`, is the future's."""
        if self._loop is None:
            self._loop = _started(self.name)
            self._stop = weakref.finalize(self, _end, self._loop)
        return asyncio.run_coroutine_threadsafe(_caught(call), self._loop)

    def stop(self, last: Future[Any]) -> None:
        """End the thread once `last` is answered; the next call starts another."""
        end, self._loop = self._stop, None
        last.add_done_callback(lambda _: end())


async def _caught(call: Callable[[], Any]) -> Any:
    # BaseException: SystemExit and KeyboardInterrupt would end the loop, and with it every later answer.
    try:
        return await settled(call())
    except BaseException as error:
        return Raised(error)


async def settled(result: Any) -> Any:
    """What a call returned that may be plain or asynchronous, once it is there."""
    return await result if inspect.isawaitable(result) else result


def _started(name: str) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    # A daemon: a guard that hangs does not keep the program from ending.
    threading.Thread(target=_serve, args=(loop,), name=f"guard {name}", daemon=True).start()
    return loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda *_: None)  # what a guard leaves behind when it is ended is not worth a line
    try:
        loop.run_forever()
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
