"""The benchmarks of a GPU: refused without one, and the same code tried on a CPU and a tiny model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import started
import torch

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "gpu" / f"{script}.py", *arguments]
    return started.run(command, cwd=ROOT)


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU only")
@pytest.mark.parametrize("script", ["serving", "training"])
def test_without_a_gpu_nothing_is_measured_and_no_result_is_written(script):
    results = ROOT / "benchmarks" / "results" / f"gpu-{script}.json"
    before = results.read_bytes() if results.exists() else None
    done = run(script)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert "--device cpu --shape tiny" in done.stderr
    assert (results.read_bytes() if results.exists() else None) == before


def numbers(results):
    for value in results.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, float):
            yield value


def test_generation_is_compared_before_it_is_timed(tmp_path):
    done = run("serving", "--device", "cpu", "--shape", "tiny", "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert (found["device"]["type"], found["shape"]) == ("cpu", "tiny")
    results = found["results"]
    assert next(iter(results)) == "parity"
    assert results["parity"]["ids as on a CPU"] == {"gather": True, "default": True}
    expected = {f"{work}, {kind}, default{count}" for kind in ("bf16", "fp8")
                for work, count in [("decode", ", 1"), ("decode", ", 4"), ("prefill", "")]}  # fmt: skip
    assert expected <= set(results)
    assert all(math.isfinite(results[name]["tokens/s"]) for name in expected)
    assert set(results["fp8 beside bf16"]["times as fast"]) == {"prefill", "decode, 1", "decode, 4"}
    assert min(numbers(results)) >= 0
    # Matrices of the tiny model in 16 bits, and the keys and values of one answer of some 30 tokens.
    assert 3.4e6 < results["decode, bf16, default, 1"]["bytes a step"] < 3.6e6
    assert not [name for name, result in results.items() if "failed" in result or "left out" in result]


def test_training_steps_learn_and_are_counted(tmp_path):
    done = run("training", "--device", "cpu", "--shape", "tiny", "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "found.json").read_text("utf-8"))["results"]["train, tiny, plain"]
    assert result["losses"][-1] < result["losses"][0]
    assert result["MFU"] is None, "no vendor's figure is made up for an unknown device"
    per_token = 1e12 * result["TFLOP/s"] / result["tokens/s"]
    assert per_token == pytest.approx(6 * 1_704_960 + 12 * 6 * 128 * 32, rel=0.1)


def test_what_there_is_no_time_for_is_named(tmp_path):
    done = run("training", "--device", "cpu", "--shape", "tiny", "--seconds", "0", "--out", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "found.json").read_text("utf-8"))["results"]
    assert {str(result) for result in results.values()} == {"{'left out': 'no time was left'}"}
