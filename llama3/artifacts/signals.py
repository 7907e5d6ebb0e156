"""Ctrl-C and SIGTERM end a run, wherever it stands: both raise KeyboardInterrupt, and are remembered.

They are remembered because what runs at that moment may be C code that makes another error of the exception, or a
callback that swallows it: whoever catches an error, or goes on without one, asks `StopSignals.seen`. An event loop is
no place for it at all: see `CancelOnSignal`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """While it is entered, SIGTERM ends the main thread as Ctrl-C does. It may be entered again inside.

    Only the main thread can set handlers: elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.seen = False
        self._depth = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            self.seen = False
            if threading.current_thread() is threading.main_thread():
                self._previous = {number: signal.signal(number, self._on_signal) for number in _ours()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            previous, self._previous = self._previous, {}
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt


class CancelOnSignal:
    """While it is entered, the first SIGTERM or Ctrl-C cancels the task that entered it, and leaving it raises
    KeyboardInterrupt; a second one does what it did before.

    A KeyboardInterrupt would come between any two steps of the loop's own code: a lock that was just taken stays taken,
    a task that was just done is never counted as done, and the program waits for ever.
    """

    def __init__(self) -> None:
        self._requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._requested:
                self._restore()
                signal.raise_signal(number)
            self._requested = True
            loop.call_soon_threadsafe(task.cancel)

        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, on_signal) for number in _ours()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        if self._requested:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        previous, self._previous = self._previous, {}
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ours() -> list[signal.Signals]:
    """SIGTERM, and SIGINT where Ctrl-C is not ignored (as in a shell's background)."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
