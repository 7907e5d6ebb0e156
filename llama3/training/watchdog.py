"""The watchdog: ends a process that no longer gets on, after it has said where it stands.

Two of them. A thread sees a process that waits (for a rank that is gone, a lock, a disk): it dumps the stacks of all
threads and the flight recorder, and exits with code 6. Where a thread holds the interpreter's lock for ever, no other
Python thread runs: then `faulthandler`'s own thread, which needs no lock, dumps the stacks and exits with code 1. The
first thread puts it off each time it wakes, so that a step pays for neither.

A process that ends takes its connections along, and whoever waits for it would tell of these and not of the hang. So it
stays until every rank has left its dump, or for another time-out where one cannot.

The time-out is learnt: LONGER times the longest that a section has taken after its first time, and never less than
`least`. A process that was stopped as a whole (Ctrl-Z) is not hung: the thread sees that it slept itself, and waits
anew.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from llama3.training.causes import HANG_EXIT
from llama3.training.flight import FLIGHT, read_dumps

LONGER = 10.0
"""A section may take so many times its longest time so far."""
FIRST = 6.0
"""And the first one so many times the least time-out: compilers run in it."""
LATER = 2.0
"""When the thread has not ended a process after so many time-outs, it could not run."""
FROZEN = 1.0
"""Seconds that the thread slept longer than it meant to: the whole process stood still."""
STAYS = 30.0
"""Seconds at most that a process waits for the dumps of others before it ends."""


class Watchdog:
    """Watches sections (a step, a save) while it is entered. `least` seconds of 0: it watches nothing.

    folder: where `stacks-<rank>.txt` and `flight-<rank>.json` are written
    told: called in the thread before it ends the process, with what is known
    """

    def __init__(
        self,
        least: float,
        folder: Path | None,
        rank: int = 0,
        told: Callable[[str], None] = lambda what: None,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.step, self.attempt, self.world = 0, 0, 1
        self.is_on = least > 0 and folder is not None
        self._least, self._folder, self._rank, self._told, self._end = least, folder or Path(), rank, told, end
        self._longest: dict[str, float] = {}
        self._again: set[str] = set()
        """Sections that were entered more than once."""
        self._section = ""
        self._deadline: float | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: IO[str] | None = None

    @property
    def stacks(self) -> Path:
        """The file of stacks; empty unless this process hung."""
        return self._folder / f"stacks-{self._rank}.txt"

    def before(self) -> str:
        """What an earlier process of this rank left without being able to say so; its file is kept under a number."""
        if not self.is_on or not self.stacks.exists():
            return ""
        text = self.stacks.read_text("utf-8", "replace")
        if text.strip():
            number = len(list(self._folder.glob(f"stacks-{self._rank}-*.txt"))) + 1
            self.stacks.rename(self._folder / f"stacks-{self._rank}-{number}.txt")
        return text

    def __enter__(self) -> Self:
        if self.is_on:
            self._file = open(self.stacks, "w", encoding="utf-8")
            self._put_off()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None or self._file is None:
            return
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """What must end in time."""
        if not self.is_on:
            yield
            return
        limit, began = self.limit(name), time.monotonic()
        with self._lock:
            self._section, self._deadline = name, began + limit
        try:
            yield
        finally:
            with self._lock:
                self._deadline = None
        self._learn(name, time.monotonic() - began)

    def _learn(self, name: str, seconds: float) -> None:
        """How long a section has taken. The first time is forgotten at the second: it is long for its own reasons."""
        if name in self._again:
            self._longest[name] = max(self._longest[name], seconds)
            return
        if name in self._longest:
            self._again.add(name)
        self._longest[name] = seconds
        self._put_off()  # by the time-out that is known now

    def limit(self, name: str) -> float:
        """Seconds that a section may take now."""
        known = self._longest.get(name)
        return FIRST * self._least if known is None else max(self._least, LONGER * known)

    def _watch(self) -> None:
        pause = min(0.25 * self._least, 5.0)
        before = time.monotonic()
        while not self._stopped.wait(pause):
            self._put_off()
            now = time.monotonic()
            slept, before = now - before - pause, now
            with self._lock:
                if self._deadline is not None and slept > FROZEN:
                    self._deadline += slept
                elif self._deadline is not None and now > self._deadline:
                    self._bark()

    def _put_off(self) -> None:
        """The end of a process in which no Python thread runs: LATER time-outs from now."""
        assert self._file is not None
        faulthandler.dump_traceback_later(self.limit(self._section) * LATER, exit=True, file=self._file)

    def _bark(self) -> None:
        what = f"{self._section} {self.step + 1} took over {self.limit(self._section):.0f} s"
        with suppress(OSError, ValueError):
            assert self._file is not None
            self._file.write(f"{what}\n")
            self._file.flush()
            faulthandler.dump_traceback(file=self._file, all_threads=True)
            FLIGHT.dump(self._folder / f"flight-{self._rank}.json", self._rank, self.attempt, self.step)
        self._told(what)
        self._stay(min(self.limit(self._section), STAYS))
        self._end(HANG_EXIT)

    def _stay(self, seconds: float) -> None:
        """Until all ranks have dumped in this attempt, or so long."""
        faulthandler.cancel_dump_traceback_later()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            told = {dump["rank"] for dump in read_dumps(self._folder) if dump["attempt"] == self.attempt}
            if told >= set(range(self.world)):
                return
            time.sleep(0.05)
