"""In every layout of the mesh the losses and gradient norms are those of one process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from installing import ROOT, lay
from parity_work import (
    ALGORITHMS,
    CONFIG,
    STEPS,
    adapted,
    columns,
    exchanges,
    parallel_of,
    resumed,
    row_by_row,
    sampled,
    trained,
    work,
)
from safetensors.torch import load_file, save_file

from llama3.checkpoints.load import load_model
from llama3.errors import CheckpointError
from llama3.plugins.registry import discover
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
    "pp2 zero_bubble": {"pp": {"size": 2, "schedule": "zero_bubble"}},
    "pp2 dp2 zero_bubble": {"pp": {"size": 2, "schedule": "zero_bubble"}, "dp": 2},
    "cp2 ulysses": {"cp": {"name": "ulysses", "size": 2}},
    "pp2 dp2": {"pp": {"size": 2, "schedule": "interleaved"}, "dp": 2},
    "tp2 pp2": {"tp": 2, "pp": 2},
    "tp2 pp2 dp2": {"tp": 2, "pp": 2, "dp": 2},
}


def world_of(layout: str) -> int:
    world = 1
    for part in layout.split():
        world *= int(part[-1]) if part[-1].isdigit() else 1
    return world


@pytest.fixture(scope="module", autouse=True)
def third_party(tmp_path_factory):
    """The example of a strategy, as `pip install` leaves it."""
    site = tmp_path_factory.mktemp("site")
    lay(ROOT / "examples" / "llama3-ulysses", site)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield
    discover.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As each rank has: on a busy machine the threads of tiny products wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Weights that were drawn by one process."""
    folder = tmp_path_factory.mktemp("checkpoint")
    PlacedModel.drawn(CONFIG, 0, parallel_of(None)).save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, work(None, checkpoint, folder, ALGORITHMS)


OF_OTHER_TESTS = {"tp2 pp2", "pp2 dp2 zero_bubble"}
WITH_SCORES = {"tp2", "cp2", "pp2", "fsdp2", "tp2 pp2 dp2"}
"""Where a reward model is trained too: its head is the one thing that other algorithms have not."""


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in OF_OTHER_TESTS])
def test_a_layout_trains_as_one_process_does(checkpoint, alone, tmp_path, layout):
    folder, one = alone
    algorithms = ALGORITHMS if layout in WITH_SCORES else ALGORITHMS[:-1]
    world = world_of(layout)
    many, *_ = run_ranks(tmp_path / "ranks", world, work, LAYOUTS[layout], checkpoint, tmp_path, algorithms)
    for algorithm in algorithms:
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


UNITS = CONFIG.n_layers + 1
"""What FSDP gathers one by one: the blocks, and all else."""


@pytest.mark.parametrize(
    ("strategy", "gathers", "sums"),
    [
        ({"name": "fsdp"}, 2 * UNITS, UNITS),
        ({"name": "fsdp", "reshard": False}, None, UNITS),
        ({"name": "ddp"}, 0, 1),
    ],
    ids=["fsdp", "gathered once", "ddp"],
)
def test_gradients_are_exchanged_once_per_update(checkpoint, tmp_path, strategy, gathers, sums):
    for count in (1, 3):
        found, _ = run_ranks(tmp_path / str(count), 2, exchanges, {"dp": {**strategy, "size": 2}}, checkpoint, count)
        assert found == {"gathered": UNITS if gathers is None else gathers * count, "added": sums}


def test_gradients_of_weights_in_bfloat16_are_added_up_in_float32(checkpoint, tmp_path):
    """Both layouts add up the same gradients, one of each row. A sum in bfloat16 would be 1e-3 off."""
    found = []
    for world in (1, 2):
        layout = {"dp": {"name": "fsdp", "size": world, "gather": "bf16"}}
        found.append(
            run_ranks(tmp_path / f"{world}", world, row_by_row, layout, checkpoint, tmp_path / f"of-{world}")[0]
        )
    for figure in ("loss", "grad_norm"):
        assert found[1][figure] == pytest.approx(found[0][figure], abs=TOLERANCE)


@pytest.mark.parametrize(
    ("layout", "algorithm"), [("pp2", "sft"), ("pp2", "reward_model"), ("pp2 dp2 zero_bubble", "sft")]
)
def test_both_ends_of_a_pipeline_learn_a_tied_matrix(tmp_path, layout, algorithm):
    source = tmp_path / "checkpoint"
    PlacedModel.drawn(replace(CONFIG, tied=True), 0, parallel_of(None)).save(source)
    one = trained(None, source, tmp_path / "one", algorithm)
    world = world_of(layout)
    many, *_ = run_ranks(tmp_path / "ranks", world, trained, LAYOUTS[layout], source, tmp_path / "many", algorithm)
    for figure in ("loss", "grad_norm"):
        assert many[figure] == pytest.approx(one[figure], abs=TOLERANCE)


@pytest.mark.parametrize("layout", ["tp2", "cp2", "pp2", "fsdp2"])
def test_a_layout_learns_from_its_own_answers_as_one_process_does(checkpoint, sampled_alone, tmp_path, layout):
    many, *_ = run_ranks(tmp_path / "ranks", world_of(layout), sampled, LAYOUTS[layout], checkpoint)
    for algorithm, rows in sampled_alone.items():
        assert len({row["reward"] for row in rows}) == len(rows) == 3, "rewards differ from step to step"
        assert rows[-1]["grad_norm"] > 0
        for ours, theirs in zip(many[algorithm], rows, strict=True):
            for name, figure in theirs.items():
                # A share counts targets beyond a bound: one that lies on it may fall to either side.
                tolerance = 0.005 if "clipfrac" in name else 1e-5
                assert ours[name] == pytest.approx(figure, abs=tolerance, nan_ok=True), (algorithm, name)
            assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("layout", ["tp2", "cp2", "pp2 interleaved"])
def test_a_layout_resumes_to_the_bit(checkpoint, tmp_path, layout):
    found, *_ = run_ranks(tmp_path / "ranks", world_of(layout), resumed, LAYOUTS[layout], checkpoint, tmp_path)
    for figure, straight in found["straight"].items():
        assert found["again"][figure] == straight[3:]
    straight, again = (tmp_path / name / "dpo" / "model.safetensors" for name in ("straight", "again"))
    assert straight.read_bytes() == again.read_bytes()


@pytest.fixture(scope="module")
def sampled_alone(checkpoint):
    return sampled(None, checkpoint)


@pytest.fixture(scope="module")
def adapted_alone(checkpoint, tmp_path_factory):
    return adapted(None, checkpoint, tmp_path_factory.mktemp("adapted"))


@pytest.mark.parametrize("layout", ["cp2", "pp2", "tp2", "tp2 dp2", "tp2 pp2"])
def test_adapters_are_trained_scored_and_merged_as_in_one_process(checkpoint, adapted_alone, tmp_path, layout):
    one, world = adapted_alone, world_of(layout)
    for many in run_ranks(tmp_path / "ranks", world, adapted, LAYOUTS[layout], checkpoint, tmp_path / "many"):
        if many["loss"]:  # rank 0 logs
            for figure in ("loss", "grad_norm"):
                assert many[figure] == pytest.approx(one[figure], abs=TOLERANCE)
        assert many["base"] == one["base"]
        for name in ("adapter", "logps", "weights"):
            torch.testing.assert_close(many[name], one[name], atol=1e-4, rtol=0)
        # It has learnt something, which the model without adapters does not know.
        assert not torch.equal(many["logps"]["adapted"], many["logps"]["base"])
        assert many["logps"]["merged"] == pytest.approx(many["logps"]["adapted"], abs=1e-5)


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
