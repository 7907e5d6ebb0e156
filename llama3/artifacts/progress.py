"""Progress on a terminal (live bars) or in a log file (a line every few seconds), on stderr."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from llama3.errors import printable

LINE_EVERY_SECONDS = 10.0
Unit = Literal["", "B"]
"""What is counted: things, or bytes, which are told in megabytes."""


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
        self._warned: set[str] = set()

    @classmethod
    def silent(cls) -> Display:
        """A display that shows nothing."""
        return cls(Console(file=io.StringIO(), quiet=True))

    def note(self, text: str) -> None:
        """One line for the person watching (rich markup). Nothing that goes wrong here stops the work."""
        with suppress(OSError):
            self.console.print(printable(text), highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """A line of plain text that the person watching should not miss, once: several stages may have it to tell."""
        if line not in self._warned:
            self._warned.add(line)
            self.note(f"[yellow]![/] {escape(printable(line, lines=False))}")  # it may name somebody's file

    @contextmanager
    def task(self, description: str, total: int | None = None, unit: Unit = "") -> Iterator[ProgressBar]:
        """Show one loop while the block runs: how far it is, how fast, and how long it will take. `total=None`: the end
        is not known."""
        if not self.console.is_terminal:
            task = _Lines(self, description, total, unit)
            yield task
            task.finish()
            return
        bars = self._start()
        identity = bars.add_task(description, total=total, shown="", unit=unit)
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
                _Done(),
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


def _amount(count: float, unit: Unit) -> str:
    """`1,234`, or `12.3 MB`."""
    return f"{count / 1e6:,.1f} MB" if unit else f"{count:,.0f}"


def _pace(per_second: float, unit: Unit) -> str:
    """`7.9 MB/s`, `120/s`, `0.25/s`."""
    return f"{_amount(per_second, unit) if unit or per_second >= 100 else f'{per_second:.3g}'}/s"


class _Done(ProgressColumn):
    """How many of how many, and how fast."""

    def render(self, task: Task) -> Text:
        unit: Unit = task.fields["unit"]
        of = "" if task.total is None else f"/{_amount(task.total, unit)}"
        pace = "" if task.speed is None else f"  {_pace(task.speed, unit)}"
        return Text(f"{_amount(task.completed, unit)}{of}{pace}", style="progress.download")


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

    def __init__(self, display: Display, description: str, total: int | None, unit: Unit = "") -> None:
        self._display, self._description, self._total, self._unit = display, description, total, unit
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

    def _left(self) -> list[str]:
        """`120/s` and `0:01:20 left`, by the mean pace so far; nothing where it is not known."""
        done, since = self._first or (self._done, 0.0)
        seconds = time.monotonic() - since
        if self._done == done or seconds <= 0:
            return []
        pace = (self._done - done) / seconds
        told = [_pace(pace, self._unit)]
        if self._total is not None and self._done < self._total:
            told.append(f"{timedelta(seconds=round((self._total - self._done) / pace))} left")
        return told

    def _print(self) -> None:
        of = "" if self._total is None else f"/{_amount(self._total, self._unit)}"
        parts = [f"  {self._description} {_amount(self._done, self._unit)}{of}", *self._left(), self._shown]
        self._display.note(escape("  ".join(part for part in parts if part)))
        self._last = time.monotonic()
        self._printed = self._done
