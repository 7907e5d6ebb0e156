"""Strategies: what they refuse before anything starts."""

from dataclasses import replace

import pytest
import torch
import yaml

from llama3.config import load
from llama3.config.schema import LoRASection, ParallelismSection
from llama3.errors import ConfigError, DoesNotFit, PluginError
from llama3.model.build import empty_model
from llama3.model.config import PRESETS
from llama3.plugins.registry import discover
from llama3.preflight import load_config, ready
from llama3.training.estimate import Cost, StepShape
from llama3.training.parallel import (
    Dims,
    GlobalStats,
    Parallel,
    ParallelContext,
    ParallelStrategy,
    checked,
    estimated,
    start,
)
from llama3.training.placed import PlacedModel

CPU = torch.device("cpu")
TINY = PRESETS["tiny"]


def test_a_single_process_needs_no_process_group():
    parallel = start(ParallelismSection(), TINY, CPU, discover())
    assert parallel.context == ParallelContext(CPU, Dims())
    assert parallel.context.is_main
    assert parallel.context.reduce([1, 2], "sum") == [1, 2]


def test_single_refuses_company_and_names_the_way_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"runs in one process, this run has 2.*name: fsdp, size: 2"):
        start(ParallelismSection.model_validate({"dp": "single"}), TINY, CPU, discover())


def test_processes_that_no_axis_asks_for_share_the_examples():
    section = ParallelismSection.model_validate({"tp": 2})
    assert {axis: slot.name for axis, slot in section.strategies(6).items()} == {"tp": "tensor", "dp": "fsdp"}
    assert {axis: slot.name for axis, slot in section.strategies(2).items()} == {"tp": "tensor"}
    assert ParallelismSection().strategies(1) == {}


def test_a_world_of_another_size_is_refused():
    section = ParallelismSection.model_validate({"dp": {"name": "fsdp", "size": 4}})
    with pytest.raises(DoesNotFit, match=r"needs 4 processes, this run has 1.*--nproc-per-node 4"):
        start(section, TINY, CPU, discover())


@pytest.mark.parametrize(
    "mesh", [{}, {"tp": 2}, {"dp": {"name": "fsdp"}}, {"dp": {"name": "fsdp", "size": 2, "reshard": False}}]
)
def test_a_mesh_is_shown_as_it_can_be_written(mesh):
    loaded = load({"parallelism": mesh}, environ={})
    shown = loaded.values["parallelism"]
    assert shown["dp"] == mesh.get("dp", "auto")
    assert "null" not in yaml.safe_dump(shown)
    assert load(yaml.safe_load(loaded.to_yaml()), environ={}).config == loaded.config


def test_everything_that_speaks_against_a_mesh_is_named_at_once_before_work_starts(monkeypatch):
    config = {
        "model": {"preset": "tiny", "n_heads": 4, "n_kv_heads": 2},
        "parallelism": {"tp": 4, "dp": {"name": "fsdp", "size": 2, "replicas": 3}},
        "post_training": {"sft": {"lora": {"rank": 4}}},
    }
    monkeypatch.setattr("llama3_plugins.parallelism.tensor.TensorParallel.places_adapters", False)
    expected = {"L3-CFG-025", "L3-PAR-010", "L3-PAR-014", "L3-PAR-020"}
    with pytest.raises(ConfigError) as caught:
        ready(load_config(config))
    assert {problem.code for problem in caught.value.problems} == expected
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError) as caught:
        load_config(config)
    assert {problem.code for problem in caught.value.problems} == expected


@pytest.mark.parametrize(
    ("section", "change", "code"),
    [
        ({"tp": 2}, {"n_kv_heads": 1}, "L3-PAR-010"),
        ({"tp": 2}, {"n_heads": 6, "n_kv_heads": 6, "ffn_dim": 9, "dim": 48}, "L3-PAR-011"),
        ({"tp": 4}, {"n_heads": 4, "n_kv_heads": 4, "vocab_size": 5}, "L3-PAR-012"),
        ({"dp": {"name": "fsdp", "size": 4, "replicas": 3}}, {}, "L3-PAR-020"),
    ],
)
def test_a_strategy_refuses_what_it_cannot_cut(section, change, code):
    with pytest.raises(ConfigError) as caught:
        start(ParallelismSection.model_validate(section), replace(TINY, head_dim=0, **change), CPU, discover())
    assert caught.value.problems[0].code == code


def test_zero_bubble_beside_shards_needs_a_torch_that_finishes_when_told(monkeypatch):
    section = ParallelismSection.model_validate({"pp": {"size": 2, "schedule": "zero_bubble"}, "dp": 2})
    monkeypatch.setattr("llama3_plugins.parallelism.pipeline.FINISHES", False)
    with pytest.raises(ConfigError) as caught:
        start(section, TINY, CPU, discover())
    assert caught.value.problems[0].code == "L3-PAR-021"


def test_adapters_are_refused_before_weights_load_by_a_strategy_without_place_for_them():
    class Plain(ParallelStrategy): ...

    parallel = Parallel(ParallelContext(CPU, Dims(tp=2)), {"tp": Plain()})
    with pytest.raises(ConfigError, match="L3-PAR-014"):
        PlacedModel.loaded("nowhere", parallel, lora=LoRASection(rank=4))


def test_moments_of_one_rank():
    x_N = torch.tensor([1.0, 2.0, 4.0])
    mean, std = GlobalStats(ParallelContext(CPU)).moments(x_N)
    torch.testing.assert_close(mean, x_N.mean())
    torch.testing.assert_close(std, x_N.std())
    assert GlobalStats(ParallelContext(CPU)).moments(x_N[:1])[1] == 0


class Odd(ParallelStrategy):
    """Answers what it is made with, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def _answer(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def check(self, model, dims):
        return self._answer()

    def estimate(self, model, dims, step):
        return self._answer()

    def apply(self, model, context):
        self._answer()


@pytest.mark.parametrize("answer", [None, "bad", ["bad"], KeyError("tp")])
def test_a_strategy_that_checks_nonsense_is_named(answer):
    with pytest.raises(PluginError, match=r"parallelism\.dp: .*test_parallel:Odd failed.*`check`.*L3-PAR-022"):
        checked("dp", Odd(answer), TINY, Dims(dp=2))


@pytest.mark.parametrize("answer", [None, "free", Cost(weights=-1.0), Cost(sent=float("nan")), ZeroDivisionError()])
def test_a_strategy_that_costs_nonsense_is_named(answer):
    with pytest.raises(PluginError, match=r"test_parallel:Odd failed.*`estimate`.*L3-PAR-022"):
        estimated("dp", Odd(answer), TINY, Dims(dp=2), StepShape(1, 512, 512))


def test_a_strategy_that_cannot_be_applied_is_named():
    parallel = Parallel(ParallelContext(CPU), {"dp": Odd(RuntimeError("no room"))})
    with pytest.raises(PluginError, match=r"`apply`: RuntimeError: no room.*L3-PAR-022"):
        parallel.apply(empty_model(TINY, ()))
