"""Where numbers go: the logger protocol, the fan-out that never stops training, and the throughput meter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llama3.plugins.targets import is_stop

if TYPE_CHECKING:
    from llama3.plugins.observers import Observers

log = logging.getLogger(__name__)


Sample = Mapping[str, str | float | None]
"""Named texts and numbers."""


class Logger(Protocol):
    """Receives metrics and samples on rank 0. May fail: it is then named, switched off, and training goes on."""

    def open(self, directory: Path, stage: str) -> None:
        """Called first: files belong under `directory`; `stage` names what is being trained."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a finished step (1-based). After a resume, steps since the checkpoint come again."""
        ...

    def sample(self, step: int, sample: Sample) -> None:
        """One thing worth reading, as named texts and numbers: a prompt, its answer, the reward."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class Loggers:
    """Fan-out that fails open: the first error of a logger is told once, and that logger is off from then on."""

    def __init__(self, loggers: Iterable[tuple[str, Logger]] = ()) -> None:
        self._loggers = list(loggers)

    def open(self, directory: Path, stage: str) -> None:
        self._each("open", directory, stage)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each("log", step, metrics)

    def sample(self, step: int, sample: Sample) -> None:
        self._each("sample", step, sample)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *args: Any) -> None:
        for entry in list(self._loggers):
            name, logger = entry
            try:
                getattr(logger, method)(*args)
            except BaseException as error:  # whatever a third party raises: training matters more
                if is_stop(error):
                    raise
                self._loggers.remove(entry)
                log.warning("logger %r failed in %s() and is off from now on: %r", name, method, error)


class Reporter:
    """Tells loggers, observer plugins and a progress display what happened. Nothing is told on other ranks."""

    def __init__(
        self,
        stage: str,
        loggers: Loggers | None = None,
        observers: Observers | None = None,
        progress: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self.stage = stage
        self._loggers = loggers or Loggers()
        self._observers = observers
        self._progress = progress

    def advanced(self, steps: int, metrics: Mapping[str, float]) -> None:
        """`steps` more steps are done; `metrics` is empty unless they were just logged."""
        if self._progress is not None:
            self._progress(steps, metrics)

    def logged(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample] = ()) -> None:
        """The metrics of a step, and samples of what was generated in it."""
        self._loggers.log(step, metrics)
        for sample in samples:
            self._loggers.sample(step, sample)
        if self._observers is not None:
            self._observers.notify("llama3_step_end", stage=self.stage, step=step, metrics=dict(metrics))

    def saved(self, step: int, path: Path) -> None:
        if self._observers is not None:
            self._observers.notify("llama3_checkpoint_saved", stage=self.stage, step=step, path=path)


class Throughput:
    """Tokens per second between two readings. The clock is monotonic, and given so that tests can turn it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = clock()
        self._tokens = 0

    def add(self, tokens: int) -> None:
        self._tokens += tokens

    def read(self) -> float:
        """Tokens per second since the last reading; starts the next interval."""
        now = self._clock()
        elapsed, tokens = now - self._since, self._tokens
        self._since, self._tokens = now, 0
        return tokens / elapsed if elapsed > 0 else 0.0
