"""Schedules, averaging windows and throughput: pure functions, traced exactly."""

import math

import pytest

from llama3.config.schema import PretrainSection
from llama3.training.averaging import snapshot_steps
from llama3.training.metrics import Throughput
from llama3.training.schedule import Schedule


def rates(**section) -> list[float]:
    schedule = Schedule.of(PretrainSection.model_validate(section))
    return [schedule.lr(step) for step in range(schedule.total)]


def cosine(peak, end, steps):
    return [end + (peak - end) * 0.5 * (1 + math.cos(math.pi * k / steps)) for k in range(1, steps + 1)]


FLAT = {"lr": 1.0, "final_lr": 0.1, "warmup": 4, "steps": 10}
ANNEAL = {"steps": 5, "schedule": "linear", "final_lr": 0}


def test_one_phase_warms_up_and_falls_to_its_floor():
    trace = rates(**FLAT)
    assert trace[:4] == [0.25, 0.5, 0.75, 1.0]
    assert trace[4:] == pytest.approx(cosine(1.0, 0.1, 6))
    assert trace == [Schedule.cosine(1.0, 0.1, 4, 10).lr(step) for step in range(10)]


def test_an_anneal_goes_from_the_rate_reached_to_exactly_0():
    trace = rates(**FLAT, phases=[{}, ANNEAL])
    assert trace[:10] == rates(**FLAT)
    assert trace[10:] == pytest.approx([0.08, 0.06, 0.04, 0.02, 0.0])
    assert trace[-1] == 0.0  # exactly


def test_a_phase_without_rates_of_its_own_goes_on_along_the_curve():
    ramp = [{"steps": 3}, {"steps": 4, "batch": 8}, {"steps": 3, "seq_len": 1024}]
    assert rates(**FLAT, phases=ramp) == rates(**FLAT)
    assert rates(**FLAT, phases=[*ramp, ANNEAL]) == rates(**FLAT, phases=[{}, ANNEAL])


def test_a_phase_can_warm_up_again_to_a_rate_of_its_own():
    phases = [{"steps": 4, "schedule": "constant", "warmup": 0}, {"steps": 6, "lr": 3.0, "warmup": 2, "final_lr": 0.5}]
    assert rates(**FLAT, phases=phases) == pytest.approx([1.0] * 4 + [2.0, 3.0] + cosine(3.0, 1.5, 4))


def test_a_curve_may_be_a_line_or_constant():
    assert rates(**FLAT | {"warmup": 2, "steps": 6, "schedule": "constant"}) == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    line = rates(**FLAT | {"warmup": 2, "steps": 5, "schedule": "linear", "final_lr": 0.4})
    assert line == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4])


def test_tokens_are_whole_steps_of_their_phase():
    schedule = Schedule.of(
        PretrainSection.model_validate(
            {"batch": 4, "seq_len": 16, "phases": [{"tokens": 65}, {"tokens": 256, "batch": 2, "seq_len": 64}]}
        )
    )
    assert schedule.total == 2 + 2


def test_warmup_longer_than_the_run_never_reaches_beyond_it():
    assert rates(lr=1.0, final_lr=0.0, warmup=100, steps=4) == [0.25, 0.5, 0.75, 1.0]


def test_there_is_no_rate_after_the_last_step():
    with pytest.raises(IndexError, match="ends 1 steps earlier"):
        Schedule.cosine(1.0, 0.1, 0, 3).lr(3)


@pytest.mark.parametrize(
    ("start", "steps", "count", "expected"),
    [
        (100, 8, 4, {102, 104, 106, 108}),
        (100, 10, 4, {103, 105, 108, 110}),
        (5, 2, 4, {6, 7}),
        (5, 0, 4, set()),
        (5, 7, 1, {12}),
        (5, 7, 0, set()),
    ],
)
def test_snapshots_end_equal_parts_of_the_last_phase(start, steps, count, expected):
    assert snapshot_steps(start, steps, count) == expected


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
