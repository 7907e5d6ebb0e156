"""The training benchmark compares equals: on both kinds of rows the plain loop has the losses of ours."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from llama3.training.placed import PlacedModel

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("training_benchmark", BENCHMARKS / "training.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_benchmark", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MODEL", dataclasses.replace(module.MODEL, dim=64, n_layers=2, ffn_dim=96))
    return module


@pytest.mark.parametrize("packed", [True, False])
def test_both_sides_learn_the_same(benchmark, tmp_path, packed):
    model = dataclasses.replace(benchmark.MODEL, head_dim=0)
    benchmark.MODEL = model
    PlacedModel.drawn(model, 0, benchmark.alone()).save(tmp_path)
    losses = benchmark.same_losses(tmp_path, packed)
    assert losses["llama3"] == pytest.approx(losses["transformers"], abs=1e-5)
    assert losses["llama3"][0] != losses["llama3"][1]


def test_packed_rows_are_whole_and_differ(benchmark):
    first, second = benchmark.rows_of(0, 4, True), benchmark.rows_of(1, 4, True)
    assert any(len(starts) > 1 for _, starts in first)
    assert all(starts[0] == 0 and starts[-1] <= benchmark.LENGTH - benchmark.SHORTEST for _, starts in first + second)
    assert (first[0][0] != second[0][0]).any()


def test_losses_that_differ_are_not_timed(benchmark, tmp_path, monkeypatch):
    benchmark.MODEL = dataclasses.replace(benchmark.MODEL, head_dim=0)
    PlacedModel.drawn(benchmark.MODEL, 1, benchmark.alone()).save(tmp_path)  # other weights than the benchmark draws
    with pytest.raises(SystemExit, match="not timed"):
        benchmark.same_losses(tmp_path, True)
