"""Progress where nobody watches a terminal: lines with what is done, the time left and the values shown."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from llama3.artifacts import progress
from llama3.artifacts.progress import Display


@pytest.fixture
def lines(monkeypatch):
    """Shows three steps, of which the first tells of two that an earlier process did; returns the lines."""
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)

    def show(total: int | None) -> list[str]:
        out = io.StringIO()
        with Display(Console(file=out, width=200)).task("prefer", total) as task:
            task.advance(2)
            task.advance(1, loss=0.5, reward=0.25)
            task.advance(1)
        return out.getvalue().splitlines()

    return show


def test_lines_tell_how_much_is_left_and_the_last_values(lines):
    first, second, third = lines(4)  # the end says nothing that was said already
    assert first == "  prefer 2/4"  # no pace yet: those two were not done now
    assert re.fullmatch(r"  prefer 3/4  [\d.,e+]+/s  \d+:\d\d:\d\d left  loss 0.5  reward 0.25", second)
    assert re.fullmatch(r"  prefer 4/4  [\d.,e+]+/s  loss 0.5  reward 0.25", third)


def test_without_a_total_nothing_is_left(lines):
    assert re.fullmatch(r"  prefer 3  [\d.,e+]+/s  loss 0.5  reward 0.25", lines(None)[1])


@pytest.mark.parametrize("terminal", [False, True])
def test_bytes_and_the_pace_are_told_so_that_they_can_be_read(monkeypatch, terminal):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    clock = iter(range(100)).__next__
    monkeypatch.setattr(progress.time, "monotonic", clock)
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal, color_system=None, get_time=clock)
    with Display(console).task("read", 40_000_000, unit="B") as task:
        for _ in range(3):
            task.advance(10_000_000)
    shown = out.getvalue()
    if terminal:
        assert "40.0 MB" in shown
    else:
        assert shown.splitlines()[1].startswith("  read 20.0 MB/40.0 MB  ")
        assert " MB/s  0:00:" in shown
