"""Several processes, and processes that are killed: the numbers stay those of one undisturbed process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import started

from llama3.training.checkpoint import CheckpointStore

CHILD = Path(__file__).with_name("training_child.py")


def child(folder: Path, steps: int, *, world: int = 1, **popen):
    folder.mkdir(exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    launch = [sys.executable, *(torchrun if world > 1 else []), str(CHILD), str(folder), str(steps)]
    command = [*launch, "fsdp"] if world > 1 else launch
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return started.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **popen)


def finish(folder: Path, steps: int, world: int = 1) -> dict:
    process = child(folder, steps, world=world, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=240)
    result = folder / "result-0.json"
    assert result.exists(), output + errors
    return json.loads(result.read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, undisturbed: 6 steps and an anneal of 2."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, finish(folder, 6)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same by two processes."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, finish(folder, 6, world=2)


def assert_close(one, other, tolerance):
    assert one["tokens"] == other["tokens"]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(one[name][-len(other[name]) :], other[name], rtol=0, atol=tolerance)
    for name, values in one["weights"].items():
        np.testing.assert_allclose(values, other["weights"][name], rtol=0, atol=10 * tolerance, err_msg=name)


def test_two_processes_train_as_one(alone, pair):
    (_, one), (folder, two) = alone, pair
    assert_close(one, two, 1e-6)
    assert len(two["loss"]) == 8
    numbers = [0, 1, 2, 10, 11, 12, 13]
    assert two["moments"] == pytest.approx([np.mean(numbers), np.std(numbers, ddof=1)])
    assert two["gathered"] == numbers
    assert json.loads((folder / "result-1.json").read_text())["loss"] == []  # only rank 0 logs


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(alone, pair, tmp_path, before, after):
    (folder, _), straight = (alone, pair)[before - 1], alone[1]
    shutil.copytree(folder / "checkpoints" / "step-6", tmp_path / "checkpoints" / "step-6")
    resumed = finish(tmp_path, 6, after)
    assert_close(straight, resumed, 1e-6)
    assert len(resumed["loss"]) == 2


def test_killed_and_resumed_is_equal_to_the_bit(alone, tmp_path):
    folder, whole = alone
    for victim_step in (2, 5):  # before the first checkpoint and after it
        process = child(tmp_path, 6, stderr=subprocess.DEVNULL)
        for line in process.stdout:
            if line == f"step {victim_step}\n":
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    resumed = finish(tmp_path, 6)
    assert resumed["weights"] == whole["weights"]
    assert resumed["tokens"] == whole["tokens"]
    assert resumed["loss"] == whole["loss"][3:]
    for group in ("model", "optimizer", "average"):
        ours, theirs = (CheckpointStore(f / "checkpoints").load().tensors(group) for f in (tmp_path, folder))
        assert ours.keys() == theirs.keys()
        assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
