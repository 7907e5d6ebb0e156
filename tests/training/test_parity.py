"""In every layout of the mesh the losses and gradient norms are those of one process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from parity_work import ALGORITHMS, CONFIG, STEPS, adapted, columns, parallel_of, resumed, trained, work
from safetensors.torch import load_file, save_file

from llama3.checkpoints.load import load_model
from llama3.errors import CheckpointError
from llama3.training.placed import PlacedModel

TOLERANCE = 2e-6
"""Of a loss or a gradient norm in float32: layouts add up in other orders."""
LAYOUTS = {
    "tp2": {"tp": 2},
    "fsdp2": {"dp": 2},
    "fsdp2 gathered once": {"dp": {"name": "fsdp", "size": 2, "reshard": False}},
    "hybrid2 x2": {"dp": {"name": "fsdp", "size": 4, "replicas": 2}},
    "ddp2": {"dp": {"name": "ddp", "size": 2}},
    "tp2 ddp2": {"tp": 2, "dp": {"name": "ddp", "size": 2}},
    "tp2 dp2": {"tp": 2, "dp": 2},
    "cp2": {"cp": 2},
    "cp4": {"cp": 4},
    "cp2 dp2": {"cp": 2, "dp": 2},
    "cp2 fsdp": {"cp": 2, "dp": "fsdp"},
    "tp2 cp2": {"tp": 2, "cp": 2},
    "pp2": {"pp": 2},
    "pp2 interleaved": {"pp": {"size": 2, "schedule": "interleaved", "consecutive": 3}},
    "pp2 dp2": {"pp": {"size": 2, "schedule": "interleaved"}, "dp": 2},
    "tp2 pp2 dp2": {"tp": 2, "pp": 2, "dp": 2},
}


def world_of(layout: str) -> int:
    world = 1
    for part in layout.split():
        world *= int(part[-1]) if part[-1].isdigit() else 1
    return world


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights that were drawn by one process."""
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, work(None, checkpoint, folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_trains_as_one_process_does(checkpoint, alone, tmp_path, layout):
    folder, one = alone
    many, *_ = run_ranks(tmp_path / "ranks", world_of(layout), work, LAYOUTS[layout], checkpoint, tmp_path)
    for algorithm in ALGORITHMS:
        assert len(one[algorithm]["loss"]) == STEPS
        for figure in ("loss", "grad_norm"):
            assert many[algorithm][figure] == pytest.approx(one[algorithm][figure], abs=TOLERANCE), (algorithm, figure)
        ours, theirs = (load_model(place / algorithm).state_dict() for place in (tmp_path, folder))
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("layout", "tied"),
    [("tp2", False), ("tp2", True), ("cp2", False), ("tp2 cp2", True), ("pp2 interleaved", False), ("pp2", True)],
)
def test_a_layout_says_and_writes_what_one_process_does(tmp_path, layout, tied):
    source = tmp_path / "checkpoint"
    PlacedModel.drawn(replace(CONFIG, tied=tied), 0, parallel_of(None)).save(source)
    one = columns(None, source, tmp_path / "one")
    for many in run_ranks(tmp_path / "ranks", world_of(layout), columns, LAYOUTS[layout], source, tmp_path / "many"):
        # Of a pipeline only the last stage sees what its loss is made of.
        expected = one if many["columns"] else {**one, "columns": {}}
        torch.testing.assert_close(many, expected, atol=2e-5, rtol=1e-5)
    for name in ("one", "many"):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


@pytest.mark.parametrize("algorithm", ["sft", "reward_model"])
def test_both_ends_of_a_pipeline_learn_a_tied_matrix(tmp_path, algorithm):
    source = tmp_path / "checkpoint"
    PlacedModel.drawn(replace(CONFIG, tied=True), 0, parallel_of(None)).save(source)
    one = trained(None, source, tmp_path / "one", algorithm)
    many, *_ = run_ranks(tmp_path / "ranks", 2, trained, LAYOUTS["pp2"], source, tmp_path / "many", algorithm)
    for figure in ("loss", "grad_norm"):
        assert many[figure] == pytest.approx(one[figure], abs=TOLERANCE)


@pytest.mark.parametrize("layout", ["tp2", "cp2", "pp2 interleaved"])
def test_a_layout_resumes_to_the_bit(checkpoint, tmp_path, layout):
    found, *_ = run_ranks(tmp_path / "ranks", world_of(layout), resumed, LAYOUTS[layout], checkpoint, tmp_path)
    for figure, straight in found["straight"].items():
        assert found["again"][figure] == straight[3:]
    straight, again = (tmp_path / name / "dpo" / "model.safetensors" for name in ("straight", "again"))
    assert straight.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("layout", ["cp2", "pp2"])
def test_adapters_are_trained_where_matrices_are_whole(checkpoint, tmp_path, layout):
    one = adapted(None, checkpoint, tmp_path / "one")
    many, *_ = run_ranks(tmp_path / "ranks", 2, adapted, LAYOUTS[layout], checkpoint, tmp_path / "many")
    for figure in ("loss", "grad_norm"):
        assert many[figure] == pytest.approx(one[figure], abs=TOLERANCE)
    torch.testing.assert_close(many["adapter"], one["adapter"], atol=1e-4, rtol=0)
    assert many["base"] == one["base"]


def refused(parallelism: dict, checkpoint: Path) -> dict:
    try:
        PlacedModel.loaded(checkpoint, parallel_of(parallelism))
    except CheckpointError as error:
        return {"problems": [str(problem) for problem in error.problems]}
    return {"problems": []}


def test_all_ranks_refuse_weights_that_one_of_them_reads(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    tensors["model.layers.2.input_layernorm.weight"][0] = torch.nan
    save_file(tensors, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    one, other = run_ranks(tmp_path / "ranks", 2, refused, LAYOUTS["pp2"], tmp_path / "broken")
    assert one == other
    assert len(one["problems"]) == 1
    assert "model.layers.2.input_layernorm.weight" in one["problems"][0]
