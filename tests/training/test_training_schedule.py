"""Schedules, averaging windows and throughput: pure functions, traced exactly."""

import math

import pytest

from llama3.training.averaging import snapshot_steps
from llama3.training.metrics import Throughput
from llama3.training.schedule import Schedule


def test_schedule_trace():
    schedule = Schedule(peak=1.0, final=0.1, warmup=4, steps=10, anneal=5)
    trace = [schedule.lr(step) for step in range(schedule.total)]
    assert trace[:4] == [0.25, 0.5, 0.75, 1.0]
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 7)]
    assert trace[4:10] == pytest.approx(cosine)
    assert trace[9] == pytest.approx(0.1)
    assert trace[10:] == pytest.approx([0.08, 0.06, 0.04, 0.02, 0.0])
    assert trace[-1] == 0.0  # exactly


def test_schedule_without_anneal_ends_at_the_floor():
    schedule = Schedule(peak=2.0, final=0.5, warmup=0, steps=3)
    assert schedule.total == 3
    assert schedule.lr(2) == pytest.approx(1.0)


def test_warmup_longer_than_the_run_never_reaches_beyond_it():
    schedule = Schedule(peak=1.0, final=0.0, warmup=100, steps=4)
    assert [schedule.lr(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("start", "anneal", "count", "expected"),
    [
        (100, 8, 4, {102, 104, 106, 108}),
        (100, 10, 4, {103, 105, 108, 110}),
        (5, 2, 4, {6, 7}),
        (5, 0, 4, set()),
        (5, 7, 1, {12}),
        (5, 7, 0, set()),
    ],
)
def test_snapshots_end_equal_parts_of_the_anneal(start, anneal, count, expected):
    assert snapshot_steps(start, anneal, count) == expected


def test_throughput_divides_by_elapsed_time_of_each_interval():
    now = [100.0]
    throughput = Throughput(lambda: now[0])
    throughput.add(300)
    throughput.add(300)
    now[0] += 2.0
    assert throughput.read() == 300.0
    throughput.add(100)
    now[0] += 4.0
    assert throughput.read() == 25.0
    assert throughput.read() == 0.0  # no time has passed: no rate, no division by zero
