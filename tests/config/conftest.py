"""A registry of fake built-ins with the names of the default config, so that these tests depend on no other area."""

from __future__ import annotations

import pytest

SOURCE = """
from llama3.plugins import *

def at(name, options=True):
    return dict(name=name, factory="fake_options:nothing", options="fake_options:" + options if options else None)

@hookimpl
def llama3_sources():
    return [SourceSpec(**at("stdlib", "Paths"), labels=("python", "prose")), SourceSpec(**at("files", "Source"))]

@hookimpl
def llama3_filters():
    names = ("gopher", "c4", "fineweb", "repeated_lines", "token_distribution", "personal_data")
    return [FilterSpec(**at(name, "Limits")) for name in names]

@hookimpl
def llama3_parallel_strategies():
    return [ParallelSpec(**at("single", None), axis="dp"), ParallelSpec(**at("megatron", None), axis="tp")]

@hookimpl
def llama3_data_kinds():
    return [
        DataKindSpec(**at("tokens", None), artifact="shards", file="plan.json"),
        DataKindSpec(**at("dialogs", None), artifact="dialogs", file="dialogs.jsonl", sampled=True),
        DataKindSpec(**at("steps", None), artifact="preferences", file="steps.jsonl"),
        *(
            DataKindSpec(**at(name, None), artifact="preferences", file=name + ".jsonl", sampled=True)
            for name in ("labels", "pairs", "prompts")
        ),
    ]

@hookimpl
def llama3_algorithms():
    return [
        AlgorithmSpec(**at("next_token", None), data="tokens"),
        AlgorithmSpec(**at("sft", None), data="dialogs"),
        AlgorithmSpec(**at("dpo", "DPO"), data="pairs", needs=frozenset({"reference"})),
        AlgorithmSpec(**at("ppo", "PPO"), data="prompts", needs=frozenset({"rollouts", "reward", "value"})),
        AlgorithmSpec(**at("grpo", None), data="prompts", needs=frozenset({"rollouts", "reward"})),
        AlgorithmSpec(**at("reward_model", None), data="pairs", needs=frozenset({"score_head"}), reward="verifiable"),
        AlgorithmSpec(**at("process", None), data="steps"),
        AlgorithmSpec(**at("lost", None), data="step"),
    ]

@hookimpl
def llama3_rewards():
    return [RewardSpec(**at("verifiable", None)), RewardSpec(**at("words", None), has_tasks=False)]

@hookimpl
def llama3_quantization_schemes():
    return [
        QuantizationSpec(**at("int8", None)),
        QuantizationSpec(**at("fp8", None), devices=frozenset({"cuda"})),
    ]

@hookimpl
def llama3_guards():
    return [GuardSpec(**at("prompt_injection", "Guard"), stages=frozenset({"input"}))]

@hookimpl
def llama3_evaluators():
    return [EvaluatorSpec(**at(name, None)) for name in ("bits_per_byte", "pass_rate", "contamination")]

@hookimpl
def llama3_exporters():
    return [ExporterSpec(**at("hf", None))]

@hookimpl
def llama3_loggers():
    return [LoggerSpec(**at(name, None)) for name in ("jsonl", "console")]
"""

OPTIONS = '''
from pydantic import BaseModel, ConfigDict, Field

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

class Limits(BaseModel):
    model_config = ConfigDict(extra="allow")

class Paths(Options):
    path: str = ""

class Source(Paths):
    source: str = "files"

class DPO(Options):
    """Direct preference optimization."""
    beta: float = Field(0.1, description="strength of the pull to the reference")
    nll_weight: float = 0.2

class PPO(Options):
    clip_ratio: float = 0.2

class Guard(Options):
    threshold: float = 0.5
'''


@pytest.fixture
def built_ins(site, monkeypatch):
    site.add("llama3", SOURCE, module="fake_built_ins")
    (site.path / "fake_options.py").write_text(OPTIONS)

    def use():
        registry = site.registry()
        modules = [f"config.{name}" for name in ("slots", "loading", "presets", "explain", "json_schema")]
        for module in (*modules, "preflight"):
            monkeypatch.setattr(f"llama3.{module}.discover", lambda: registry)
        return registry

    use()
    return use


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a config file into an empty working directory and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="run.yaml"):
        (tmp_path / name).write_text(text)
        return name

    return write
