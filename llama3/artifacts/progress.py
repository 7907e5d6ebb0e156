"""Progress on a terminal (live bars) or in a log file (a line every few seconds), on stderr."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from llama3.errors import printable

LINE_EVERY_SECONDS = 10.0


class ProgressBar(Protocol):
    """One loop being shown."""

    def advance(self, n: int = 1, **shown: Any) -> None:
        """`n` more units are done; `shown` are values to show beside the bar."""


class PatientConsole(Console):
    """A console whose reader may go away: then nothing is shown any more, and the work goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """Where a run tells a person what it does. One live area for all tasks, so that bars never overwrite
    each other.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or PatientConsole(stderr=True)
        self._bars: Progress | None = None
        self._open = 0

    @classmethod
    def silent(cls) -> Display:
        """A display that shows nothing."""
        return cls(Console(file=io.StringIO(), quiet=True))

    def note(self, text: str) -> None:
        """One line for the person watching (rich markup). Nothing that goes wrong here stops the work."""
        with suppress(OSError):
            self.console.print(printable(text), highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[ProgressBar]:
        """Show one loop while the block runs. `total=None`: the end is not known."""
        if not self.console.is_terminal:
            task = _Lines(self, description, total)
            yield task
            task.finish()
            return
        bars = self._start()
        identity = bars.add_task(description, total=total, shown="")
        try:
            yield _Bar(bars, identity)
        finally:
            bars.remove_task(identity)
            self._stop()

    def _start(self) -> Progress:
        if self._bars is None:
            columns = (
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            shown = TextColumn("{task.fields[shown]}", style="dim")
            self._bars = Progress(*columns, shown, console=self.console, transient=True)
            self._bars.start()
        self._open += 1
        return self._bars

    def _stop(self) -> None:
        self._open -= 1
        if self._open == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


def _text(shown: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )


class _Bar:
    def __init__(self, bars: Progress, identity: TaskID) -> None:
        self._bars, self._identity = bars, identity

    def advance(self, n: int = 1, **shown: Any) -> None:
        if shown:
            self._bars.update(self._identity, advance=n, shown=_text(shown))
        else:
            self._bars.update(self._identity, advance=n)


class _Lines:
    """For logs: a line when `LINE_EVERY_SECONDS` have passed since the last, and one at the end of a long
    task. The time left is measured from the first advance on, which may tell of work done before (a resumed run).
    """

    def __init__(self, display: Display, description: str, total: int | None) -> None:
        self._display, self._description, self._total = display, description, total
        self._done, self._shown = 0, ""
        self._last = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._printed: int | None = None

    def advance(self, n: int = 1, **shown: Any) -> None:
        self._done += n
        self._shown = _text(shown) if shown else self._shown
        self._first = self._first or (self._done, time.monotonic())
        if time.monotonic() - self._last >= LINE_EVERY_SECONDS:
            self._print()

    def finish(self) -> None:
        if self._printed not in (None, self._done):
            self._print()

    def _left(self) -> str:
        """`0:01:20 left`, by the mean pace so far; nothing where it is not known."""
        done, since = self._first or (self._done, 0.0)
        if self._total is None or self._done == done or self._done >= self._total:
            return ""
        pace = (time.monotonic() - since) / (self._done - done)
        return f"{timedelta(seconds=round(pace * (self._total - self._done)))} left"

    def _print(self) -> None:
        of = "" if self._total is None else f"/{self._total}"
        parts = [f"  {self._description} {self._done}{of}", self._left(), self._shown]
        self._display.note(escape("  ".join(part for part in parts if part)))
        self._last = time.monotonic()
        self._printed = self._done
