"""Sampling from a model whose weights are sharded over two processes: the run is that of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CHILD = Path(__file__).with_name("rollout_child.py")


def finish(folder: Path, world: int) -> dict:
    folder.mkdir()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    launch = [sys.executable, *(torchrun if world > 1 else []), str(CHILD), str(folder)]
    command = [*launch, "fsdp"] if world > 1 else launch
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240)
    result = folder / "result-0.json"
    assert result.exists(), done.stdout + done.stderr
    return json.loads(result.read_text())


def test_two_processes_sample_and_train_as_one(tmp_path):
    one, two = finish(tmp_path / "one", 1), finish(tmp_path / "two", 2)
    assert one["metrics"].keys() == two["metrics"].keys() >= {"reward", "kl", "completions/mean_length"}
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-5), name
    for name, values in one["weights"].items():
        np.testing.assert_allclose(values, two["weights"][name], rtol=0, atol=1e-5, err_msg=name)
