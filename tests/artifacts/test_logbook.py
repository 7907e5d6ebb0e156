"""The logs of a run are told apart by the artifact that each line is about."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from llama3.artifacts import Stage
from llama3.artifacts.files import append_json_line
from llama3.artifacts.run import RunDir


class Asked(BaseModel):
    loss: float


def train(*, options, out) -> None:
    """Logs two steps as a training stage does."""
    (out.path / "weights").write_text(str(options.loss))
    for step in (1, 2):
        append_json_line(out.logs / "metrics.jsonl", {"stage": "train", "step": step, "loss": options.loss})
    if options.loss < 0:
        raise ZeroDivisionError


TRAIN = Stage("train", train, "checkpoint")


def losses(run, **made):
    return [(row.get("key"), row["loss"]) for row in run.rows_of("metrics", made)]


@pytest.fixture
def run(tmp_path):
    with RunDir(tmp_path / "run") as opened:
        yield opened


def test_rounds_and_earlier_configs_are_told_apart(run):
    old = run.execute(TRAIN, {}, Asked(loss=9), key="train-1")
    first = run.execute(TRAIN, {}, Asked(loss=1), key="train-1")
    second = run.execute(TRAIN, {}, Asked(loss=2), key="train-2")
    both = {"train-1": first, "train-2": second}
    assert losses(run, **both) == [("train-1", 1), ("train-1", 1), ("train-2", 2), ("train-2", 2)]
    assert losses(run, **{"train-1": old}) == [("train-1", 9)] * 2
    assert run.seconds_of(both).keys() == both.keys()
    assert all(seconds >= 0 for seconds in run.seconds_of(both).values())


def test_a_line_that_a_crash_cut_short_moves_no_other(run):
    first = run.execute(TRAIN, {}, Asked(loss=1), key="train-1")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "train", "st')
    second = run.execute(TRAIN, {}, Asked(loss=2), key="train-2")
    assert losses(run, first=first) == [("first", 1)] * 2
    assert losses(run, second=second) == [("second", 2)] * 2


def test_lines_of_a_time_before_starts_were_noted_have_no_key(run):
    append_json_line(run.path / "metrics.jsonl", {"stage": "train", "step": 1, "loss": 5})
    made = run.execute(TRAIN, {}, Asked(loss=1))
    assert losses(run, train=made) == [(None, 5), ("train", 1), ("train", 1)]


def test_time_counts_attempts_that_failed(run):
    with pytest.raises(ZeroDivisionError):
        run.execute(TRAIN, {}, Asked(loss=-1))
    made = run.execute(TRAIN, {}, Asked(loss=1))
    events = run.path / "events.jsonl"
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    named = made.location.name
    for row in rows:
        if row["kind"] in ("stage_done", "stage_failed"):
            row |= {"artifact": named, "seconds": 2.5}
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run.seconds_of({"train": made}) == {"train": 5.0}
    assert run.seconds_of({"other": made}) == {"other": 5.0}
