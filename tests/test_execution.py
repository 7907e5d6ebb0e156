"""Which plugins a stage uses: those that its options choose, and what is chosen inside their options."""

from __future__ import annotations

import gc
import json

import pytest

from llama3.artifacts.precision import PRECISION_FILE
from llama3.config import load
from llama3.config.schema import Config
from llama3.evaluation.stages import ContaminationOptions, EvaluateOptions
from llama3.execution import Executor, plugins_of
from llama3.model.memory import set_apart_what_is_there
from llama3.posttraining.finetune import PreferOptions, SFTOptions
from llama3.posttraining.reject import RejectOptions
from llama3.release.quantize import QuantizeOptions
from llama3.release.release import ReleaseOptions
from llama3.training.pretrain import PretrainOptions

GYM = {"name": "reasoning_gym", "families": ["gcd"]}
CONFIG = Config.model_validate(
    {
        "run": {"device": "cpu"},
        "parallelism": {"dp": "fsdp"},
        "evaluation": {"tasks": ["bits_per_byte", {"name": "pass_rate", "suite": "gcd", "rewards": [GYM]}]},
        "safety": {"policy": {"input": {"any": [{"guard": {"name": "prompt_injection"}, "timeout_ms": 100}]}}},
    }
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SFTOptions.of(CONFIG), ["algorithms/sft"]),
        (PreferOptions.of(CONFIG), ["algorithms/dpo", "rewards/verifiable"]),
        (RejectOptions.of(CONFIG, 1), ["rewards/verifiable"]),
        (QuantizeOptions.of(CONFIG, CONFIG.quantization[0]), ["quantization/int8"]),
        (
            EvaluateOptions.of(CONFIG),
            ["evaluators/bits_per_byte", "evaluators/pass_rate", "rewards/reasoning_gym", "rewards/verifiable"],
        ),
        (ContaminationOptions.of(CONFIG), ["rewards/reasoning_gym", "rewards/verifiable"]),
        (ReleaseOptions.of(CONFIG), ["exporters/hf", "guards/prompt_injection"]),
        (None, []),
    ],
)
def test_a_stage_uses_the_plugins_that_its_options_choose(options, expected):
    assert [f"{use.family}/{use.name}" for use in plugins_of(options)] == expected


def test_how_the_work_is_shared_and_logged_is_no_part_of_what_is_asked():
    """So a run goes on with another number of processes."""
    alone = CONFIG.model_copy(update={"parallelism": Config().parallelism, "logging": []})
    for options in (PretrainOptions, SFTOptions, PreferOptions):
        assert plugins_of(options.of(alone)) == plugins_of(options.of(CONFIG))
        assert options.of(alone).model_dump() == options.of(CONFIG).model_dump()


@pytest.mark.parametrize(
    ("policy", "places"),
    [
        ({"input": "prompt_injection"}, ["safety.policy.input"]),
        ({"input": {"guard": "prompt_injection"}}, ["safety.policy.input.guard"]),
        (
            {"input": {"k_of": {"k": 1, "of": [{"guard": {"name": "prompt_injection"}}, "prompt_injection"]}}},
            ["safety.policy.input.k_of.of.0.guard", "safety.policy.input.k_of.of.1"],
        ),
        ({"input": {"first": ["prompt_injection"]}, "output": {"unguarded": True}}, ["safety.policy.input.first.0"]),
    ],
)
def test_every_leaf_of_a_policy_is_a_slot(policy, places):
    loaded = load({"safety": {"policy": policy}})
    guards = [choice for choice in loaded.choices if choice.family == "guards"]
    assert [".".join(map(str, choice.path)) for choice in guards] == places
    assert {choice.slot.name for choice in guards} == {"prompt_injection"}
    assert [row["name"] for row in loaded.plugins() if row["family"] == "guards"] == ["prompt_injection"]


def test_what_the_machine_computes_faster_in_is_measured_once_and_kept(tmp_path):
    config = {"run": {"dir": str(tmp_path), "threads": 1}, "post_training": {"sft": {"precision": "fp32"}}}
    with Executor(load(config)) as first:
        assert not (first.run.path / PRECISION_FILE).exists(), "not before anything is to be trained"
        assert first.config.run.threads == 1
        measured = json.loads((first.run.path / PRECISION_FILE).read_text())
    assert set(measured) == {"training", "sampling"}
    assert first.config.pretrain.precision == measured["training"]["precision"]
    assert first.config.post_training.reject.precision == measured["sampling"]["precision"]
    assert first.config.post_training.sft.precision == "fp32"

    # What was kept decides, whatever another machine, or this one on another day, would measure.
    for kept in ("bf16", "fp32"):
        measured["training"]["precision"] = kept
        (first.run.path / PRECISION_FILE).write_text(json.dumps(measured))
        with Executor(load(config)) as again:
            assert again.config.pretrain.precision == kept
            assert PretrainOptions.of(again.config).pretrain.precision == kept

    for odd in ("{", "[" * 100_000, "[1]", '{"training": 3}', '{"training": {"precision": "fp8", "gflops": {}}}'):
        (first.run.path / PRECISION_FILE).write_text(odd)
        with Executor(load(config)) as anew:
            assert anew.config.pretrain.precision in ("fp32", "bf16")


def test_a_config_that_leaves_nothing_open_measures_nothing(tmp_path):
    fixed = {"precision": "fp32"}
    post = {"reject": fixed, "sft": fixed, "prefer": {**fixed, "sampling_precision": "bf16"}}
    config = {"run": {"dir": str(tmp_path), "threads": 1}, "pretrain": fixed, "post_training": post}
    with Executor(load(config)) as make:
        assert make.config.pretrain.precision == "fp32"
        assert not (make.run.path / PRECISION_FILE).exists()


def test_modules_are_set_apart_from_garbage_while_it_runs(tmp_path):
    """Each stage looks for garbage; what was there before, and what others set apart, stays as it was."""
    gc.unfreeze()
    try:
        with Executor(load({"run": {"dir": str(tmp_path), "threads": 1}})):
            assert gc.get_freeze_count() > 10_000
            assert not set_apart_what_is_there()
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with Executor(load({"run": {"dir": str(tmp_path), "threads": 1}})):
            pass
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.freeze()
