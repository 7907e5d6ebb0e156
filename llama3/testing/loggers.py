"""Conformance of loggers: whatever training says is taken, and files stay where they belong."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llama3.testing.conformance import Conformance
from llama3.training.metrics import Logger, Sample

METRICS = {"loss": 2.5, "grad_norm": math.nan, "reward": math.inf, "tokens": 1e12, "clip_ratio/low_mean": 0}
SAMPLE: Sample = {
    "prompt": "Is 7 even?\nSay \u001b[1myes\u001b[0m or no.",
    "answer": "",
    "reward": None,
    "kl": 0.1,
}


class LoggerConformance(Conformance):
    """Checks of a logger. Where it writes to the network, name options that do not."""

    family = "loggers"

    def test_it_takes_all_that_training_says(self) -> None:
        """Numbers that are none, texts of many lines, scores that nobody knows."""
        with self._quietly() as folder:
            logger = self._logger()
            logger.open(folder, "sft")
            for step in (1, 10):
                logger.log(step, dict(METRICS))
                logger.sample(step, dict(SAMPLE))
            logger.close()

    def test_steps_may_come_again(self) -> None:
        """After a resume, those since the checkpoint do; the directory is there already."""
        with self._quietly() as folder:
            for _ in range(2):
                logger = self._logger()
                logger.open(folder, "pretrain")
                logger.log(1, {"loss": 1.0})
                logger.close()

    def test_nothing_to_log_is_no_error(self) -> None:
        with self._quietly() as folder:
            logger = self._logger()
            logger.open(folder / "a new one", "reward")
            logger.log(1, {})
            logger.close()

    def test_what_it_is_given_stays_as_it_is(self) -> None:
        with self._quietly() as folder:
            logger, metrics, sample = self._logger(), dict(METRICS), dict(SAMPLE)
            logger.open(folder, "sft")
            logger.log(1, metrics)
            logger.sample(1, sample)
            logger.close()
            assert list(metrics) == list(METRICS), "the metrics were changed"
            assert sample == SAMPLE, "the sample was changed"

    def test_files_lie_in_its_directory(self) -> None:
        before = set(os.listdir())
        self.test_it_takes_all_that_training_says()
        assert set(os.listdir()) == before, "it wrote into the working directory"

    # -- helpers ---------------------------------------------------------------------------------

    def _logger(self) -> Logger:
        logger: Logger = self.build()
        return logger

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[Path]:
        """A directory of its own; what the logger prints is not shown."""
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield Path(folder)
