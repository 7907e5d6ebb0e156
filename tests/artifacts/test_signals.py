"""A signal stops a run whatever runs at that moment, and the run says so."""

from __future__ import annotations

import os
import signal

import pytest

from llama3.artifacts import stage
from llama3.artifacts.progress import Display
from llama3.artifacts.run import RunDir
from llama3.errors import Interrupted

NUMBERS = [signal.SIGTERM, signal.SIGINT]


def stop(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_another_error_took_the_place_of_is_still_a_stop(tmp_path, number):
    @stage(output="report")
    def fragile(*, out):
        try:
            stop(number)
        except KeyboardInterrupt:
            raise ValueError("what C code makes of an exception within it") from None

    run = RunDir(tmp_path, Display.silent())
    with pytest.raises(Interrupted, match="L3-RUN-004"):
        run.execute(fragile, {})
    assert [row["kind"] for row in run.rows("events")][-1] == "stage_interrupted"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_was_swallowed_stops_after_the_stage(tmp_path, number):
    @stage(output="report")
    def deaf(*, out):
        try:
            stop(number)
        except KeyboardInterrupt:
            (out.path / "done").write_text("whole")

    run = RunDir(tmp_path, Display.silent())
    with pytest.raises(Interrupted, match="L3-RUN-006"):
        run.execute(deaf, {})
    assert run.execute(deaf, {}).file("done").read_text() == "whole", "nothing to do"


def test_handlers_stand_between_stages_and_are_given_back(tmp_path):
    before = [signal.getsignal(number) for number in NUMBERS]
    with RunDir(tmp_path / "run", Display.silent()), pytest.raises(KeyboardInterrupt):
        stop(signal.SIGTERM)
    assert [signal.getsignal(number) for number in NUMBERS] == before
