"""Saves behind training: steps go on meanwhile, one at a time, waited for at every end, and failures are told."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import torch
from training_toys import Counting, options, schedule, toy_model, weights

from llama3.errors import CheckpointError, Interrupted
from llama3.model.batch import Batch
from llama3.training import loop, saving
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import train
from llama3.training.metrics import Reporter
from llama3.training.placed import PlacedModel
from llama3_plugins.algorithms.next_token import NextToken

PATIENCE = 60


class Told(Reporter):
    """A reporter that remembers which checkpoints it was told of, and by which thread."""

    def __init__(self) -> None:
        super().__init__("toy")
        self.steps, self.threads = [], set()

    def saved(self, step, path):
        assert (path / "COMMIT").exists()
        self.steps.append(step)
        self.threads.add(threading.current_thread())


class Watched(Counting):
    """Calls back when the examples of a step (0-based) are asked for."""

    def __init__(self, at=None) -> None:
        super().__init__()
        self.at = at or {}

    def examples(self, step):
        self.at.get(step, lambda: None)()
        return super().examples(step)


def run(folder, dataset=None, *, steps=8, every=2, reporter=None, model=None):
    section = options(checkpoint_every=every)
    model = model or toy_model()
    train(
        PlacedModel(model),
        NextToken(),
        dataset or Counting(),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, steps),
        seed=5,
        store=CheckpointStore(folder),
        reporter=reporter or Told(),
    )
    return model


class Gate:
    """Holds every save before it writes, until it is opened."""

    def __init__(self, monkeypatch) -> None:
        self.opened, self.writing, self.most = threading.Event(), 0, 0
        real = saving.write_parts

        def write(*arguments):
            self.writing += 1
            self.most = max(self.most, self.writing)
            assert self.opened.wait(PATIENCE), "nobody has opened the gate: training waited for the save"
            self.writing -= 1
            return real(*arguments)

        monkeypatch.setattr(saving, "write_parts", write)


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


def test_training_goes_on_while_a_checkpoint_is_written(gate, tmp_path):
    seen = []

    def look():
        seen.append((gate.writing, CheckpointStore(tmp_path).steps()))
        gate.opened.set()

    told = Told()
    run(tmp_path, Watched({3: look}), steps=4, every=2, reporter=told)
    assert seen == [(1, [])]  # the third step was made, the save after the second had not ended
    assert told.steps == [2, 4]
    assert told.threads == {threading.main_thread()}


def test_what_is_saved_is_the_step_not_what_training_made_of_it_since(gate, tmp_path):
    seen, model = [], toy_model()
    run(tmp_path / "held", Watched({2: lambda: seen.append(weights(model)), 3: gate.opened.set}), steps=4, model=model)
    found = {step: CheckpointStore(tmp_path / "held").verify(step).tensors("model") for step in (2, 4)}
    for name, expected in seen[0].items():
        assert torch.equal(found[2][name], expected)
        assert not torch.equal(found[4][name], expected)


def test_a_second_save_waits_for_the_first(gate, tmp_path, monkeypatch):
    real = saving.CheckpointSaver.settle
    waits = []

    def settle(self, *, wait=False, last=False):
        if wait and self._writing is not None:
            waits.append(self._writing.step)
            gate.opened.set()
        real(self, wait=wait, last=last)

    monkeypatch.setattr(saving.CheckpointSaver, "settle", settle)
    told = Told()
    run(tmp_path, steps=6, every=2, reporter=told)
    assert waits[0] == 2
    assert waits[-1] == 6
    assert told.steps == [2, 4, 6]
    assert gate.most == 1
    assert CheckpointStore(tmp_path).steps() == [4, 6]


def test_a_save_is_finished_when_training_fails(gate, tmp_path):
    def fail():
        threading.Timer(0.2, gate.opened.set).start()
        raise RuntimeError("broken data")

    with pytest.raises(RuntimeError, match="broken data"):
        run(tmp_path, Watched({5: fail}), steps=20, every=4)
    assert CheckpointStore(tmp_path).load().step == 4


def test_a_signal_saves_its_step_after_the_save_that_was_under_way(gate, tmp_path):
    def stop():
        os.kill(os.getpid(), 15)
        threading.Timer(0.2, gate.opened.set).start()

    told = Told()
    with pytest.raises(Interrupted, match="stopped after step 6 of 20, which is saved"):
        run(tmp_path, Watched({5: stop}), steps=20, every=4, reporter=told)
    assert told.steps == [4, 6]
    assert CheckpointStore(tmp_path).load().step == 6


def test_going_back_gives_up_the_checkpoints_of_later_steps(tmp_path, monkeypatch):
    run(tmp_path / "straight", steps=6, every=2)
    gone_back = []
    real = loop.Trainer.save_if_due

    def save_if_due(self, stopping):
        real(self, stopping)
        if self.progress.step == 5 and not gone_back:
            gone_back.append(CheckpointStore(tmp_path / "back").steps())
            self.restore(at_most=3)
            self.store.forget_after(self.progress.step)
            gone_back.append((self.progress.step, CheckpointStore(tmp_path / "back").steps()))

    monkeypatch.setattr(loop.Trainer, "save_if_due", save_if_due)
    told = Told()
    run(tmp_path / "back", steps=6, every=2, reporter=told)
    assert gone_back[1] == (2, [2])
    assert told.steps == [2, 4, 4, 6]
    ours, theirs = (CheckpointStore(tmp_path / name).load() for name in ("back", "straight"))
    assert ours.state == theirs.state
    assert all(torch.equal(ours.tensors("model")[name], x) for name, x in theirs.tensors("model").items())


class Disk:
    """A disk that is full for some of the saves, numbered from 1."""

    def __init__(self, monkeypatch, full: set[int]) -> None:
        self.saves = 0
        real = saving.write_parts

        def write(directory, *rest):
            self.saves += 1
            found = real(directory, *rest)
            if self.saves in full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return found

        monkeypatch.setattr(saving, "write_parts", write)


def test_one_failed_save_is_told_and_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, caplog):
    straight = run(tmp_path / "straight")
    Disk(monkeypatch, {2})
    told = Told()
    model = run(tmp_path / "full", reporter=told)
    assert told.steps == [2, 6, 8]
    assert "training goes on" in caplog.text
    assert "No space left on device" in caplog.text
    assert "L3-TRN-016" in caplog.text
    for name, expected in weights(straight).items():
        assert torch.equal(weights(model)[name], expected)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["step-6", "step-8"]


def test_the_second_failed_save_in_a_row_stops_training(tmp_path, monkeypatch):
    Disk(monkeypatch, {2, 3})
    with pytest.raises(CheckpointError, match=r"step-6.*No space left on device.*free disk space.*L3-TRN-016"):
        run(tmp_path, steps=20)
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]
    monkeypatch.undo()
    told = Told()
    run(tmp_path, steps=20, reporter=told)
    assert told.steps == [4, 6, 8, 10, 12, 14, 16, 18, 20]


def test_the_last_save_must_succeed(tmp_path, monkeypatch):
    Disk(monkeypatch, {4})
    with pytest.raises(CheckpointError, match="L3-TRN-016"):
        run(tmp_path)
    assert CheckpointStore(tmp_path).load().step == 6


def test_a_failure_is_told_between_the_next_two_steps(tmp_path, monkeypatch, caplog):
    """Not only when the next save is due."""
    Disk(monkeypatch, {1})
    seen = []

    def wait_and_look():
        for thread in threading.enumerate():
            if thread.name.startswith("checkpoint-"):
                thread.join(PATIENCE)

    run(
        tmp_path,
        Watched({5: wait_and_look, 6: lambda: seen.append("training goes on" in caplog.text)}),
        steps=8,
        every=5,
    )
    assert seen == [True]
