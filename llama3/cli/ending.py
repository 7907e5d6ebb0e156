"""How the program ends, whatever plugins do: one that ends the process, crashes it, or leaves a thread at work is told
of."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections import Counter, namedtuple
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from llama3.cli.output import note
from llama3.errors import PluginError
from llama3.plugins.asking import owners
from llama3.plugins.loader import Offer
from llama3.plugins.targets import EXITED, OURS, package_of

TELL_AFTER, END_AFTER = 2.0, 30.0
"""Seconds for which threads are waited for when all is done: before they are told, and before they are ended."""

_exit = os._exit


def watch_exits() -> None:
    """From now on a plugin that ends this process (`os._exit`) is told of, and the exit code is that of its failure.
    Where a library crashes, a traceback tells whose code called it. A process that is forked may end as it likes."""
    with suppress(AttributeError, RuntimeError, OSError, ValueError):  # standard error is closed, or is no file
        faulthandler.enable()
    process = os.getpid()

    def exit_told(status: int) -> NoReturn:
        caller = sys._getframe(1)
        if os.getpid() == process and package_of(caller) not in OURS:
            place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            note(f"error: {EXITED(place, error=f'os._exit({status})')}")
            status = PluginError.exit_code
        _exit(status)

    os._exit = exit_told


def watch_exits_here() -> None:
    """In a process that was forked to go on with the program: as in the one it comes from."""
    if os._exit is not _exit:
        watch_exits()


def end_in_time(code: int) -> NoReturn:
    """Ends the program. Python waits for every thread that is no daemon: this tells which, and whose, and ends the
    program where they go on for long."""
    os._exit = _exit
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # all is done: whoever stops it waits for nothing more
            signal.signal(number, lambda number, frame: _exit(code))
    # An interrupt that came while Python ran code from a string is remembered until the next such code, and would end
    # the process as by a signal, whatever its exit code is. Named tuples are made by such code.
    namedtuple("Forgotten", ())
    threading.Thread(target=_end_threads, args=(code,), daemon=True).start()
    sys.exit(code)


def _end_threads(code: int) -> None:
    time.sleep(TELL_AFTER)
    if not (names := _at_work()):
        return
    note(f"! all is done, but for {names}: waiting {END_AFTER:g} seconds at most")
    time.sleep(END_AFTER)
    if names := _at_work():
        note(f"! ended at work: {names}")
        _exit(code)


def _at_work() -> str:
    """The threads that keep the program from ending, with their plugins."""
    frames, known = sys._current_frames(), owners(_offers())
    waited = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    places = Counter(_of(frames.get(thread.ident or 0), known) for thread in waited)
    return ", ".join(f"{count} thread{'s' * (count > 1)}{place}" for place, count in places.items())


def _offers() -> list[Offer]:
    from llama3.plugins.registry import discover

    return discover(strict=False).offers


def _of(frame: FrameType | None, known: dict[str, str]) -> str:
    """The plugin whose code a thread runs, or the line where it is."""
    place = f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
    while frame is not None:
        if (package := package_of(frame)) in known:
            return f" of plugin {known[package]}{place}"
        frame = frame.f_back
    return place
