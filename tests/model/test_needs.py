"""What cannot fit is refused before any work, with the figures."""

from __future__ import annotations

import pytest
import torch

from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.config import load
from llama3.errors import DoesNotFit
from llama3.model.build import init_weights
from llama3.model.config import PRESETS, ModelConfig
from llama3.model.needs import memory_here, needs, shortage
from llama3.model.transformer import Transformer
from llama3.recipe import run
from llama3.training.room import local_share


def test_what_training_keeps_is_what_is_counted():
    model = init_weights(Transformer(ModelConfig(32, 2, 4, 2, 48, 300)), 0)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    kept = [p.nbytes + p.grad.nbytes for p in model.parameters()]
    kept += [s.nbytes for state in optimizer.state.values() for s in state.values() if s.dim()]
    (need,) = needs(load({}, environ={}).config)
    assert need.each * model.config.num_params() == sum(kept)


def test_muon_keeps_one_moment():
    config = load({"pretrain": {"optimizer": "muon"}, "model": {"preset": "llama-3-70b"}}, environ={}).config
    (need,) = needs(config)
    assert need.each == 12
    model = ModelConfig.from_section(config.model, config.tokenizer.vocab_size)
    assert "the moment of Muon" in str(shortage(config, model, 10**9, "this machine")[0])


def test_seventy_billion_do_not_fit_into_24_gb():
    config = load({"model": {"preset": "llama-3-70b"}}, environ={}).config
    model = ModelConfig.from_section(config.model, config.tokenizer.vocab_size)
    (problem,) = shortage(config, model, 24 * 10**9, "this machine")
    assert "24.0 GB" in str(problem)
    assert f"{model.num_params():,}" in str(problem)
    assert shortage(config, model, 2000 * 10**9, "this machine") == []
    assert shortage(config, model, 24 * 10**9, "this machine", share=1 / 64) == []


@pytest.mark.parametrize(
    ("post", "each"),
    [
        ({}, 16),
        ({"rounds": 0}, 4),
        ({"sft": {"lora": {}}, "prefer": {"lora": {}}}, 4),
        ({"sft": {"lora": {}}}, 16),
        ({"data": "rows.jsonl"}, 16),
        ({"data": "rows.jsonl", "sft": {"lora": {}}}, 4),
    ],
)
def test_only_what_is_certain_counts_for_an_adopted_model(post, each):
    config = load({}, environ={}).config
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"path": "x"}),
            "post_training": type(config.post_training).model_validate(post),
        }
    )
    assert needs(config)[-1].each == each


def test_long_context_stages_train_an_adopted_model():
    config = load(
        {"pretrain": {"phases": [{}, {"extend": {"to": 4096}}]}, "post_training": {"rounds": 0}}, environ={}
    ).config
    adopted = config.model_copy(update={"model": config.model.model_copy(update={"path": "x"})})
    assert [(need.work, need.each) for need in needs(adopted)] == [("evaluation", 4), ("training on longer rows", 16)]


@pytest.mark.parametrize(
    ("parallelism", "share"),
    [
        ({}, 1),  # fsdp
        ({"cp": 4}, 4),
        ({"cp": 2, "tp": 2}, 2),
        ({"cp": 2, "dp": 2}, 1),
        ({"pp": 4}, 1),
        ({"dp": "ddp"}, 4),
        ({"dp": "ddp", "tp": 2}, 2),
        ({"dp": "ddp", "cp": 2}, 4),
        ({"dp": {"name": "fsdp", "replicas": 2}}, 2),
        ({"dp": {"name": "fsdp", "replicas": 4}}, 4),
        ({"dp": {"name": "fsdp", "replicas": 2}, "cp": 2}, 2),
    ],
)
def test_a_machine_holds_its_processes_share_of_a_sharded_model(parallelism, share):
    config = load({"parallelism": parallelism}, environ={}).config
    model = ModelConfig.from_section(config.model, config.tokenizer.vocab_size)
    assert local_share(config, model, {}) == 1
    assert local_share(config, model, {"WORLD_SIZE": "4"}) == 1
    assert local_share(config, model, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}) == pytest.approx(share)
    assert local_share(config, model, {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"}) == pytest.approx(share / 4)


def test_a_run_counts_what_every_rank_of_the_machine_holds(tmp_path, monkeypatch, capsys):
    """Four whole copies do not fit where one would, and where four parts do."""
    config = load({}, environ={}).config
    one = 16 * ModelConfig.from_section(config.model, config.tokenizer.vocab_size).num_params()
    monkeypatch.setattr("llama3.training.room.memory_here", lambda: 2 * one)
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    asked = ["--set", f"run.dir={tmp_path / 'runs'}", "--set", "run.device=cpu", "--set", "parallelism.dp=ddp"]
    empty = tmp_path / "my.yaml"
    empty.write_text("run: {name: my}\n")
    with pytest.raises(SystemExit) as done:
        cli.main(["run", str(empty), *asked])
    told = capsys.readouterr().err
    assert done.value.code == 3, told
    assert "L3-MEM-001" in told
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_fit_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("llama3.training.room.memory_here", lambda: 24 * 10**9)
    monkeypatch.setattr("llama3.model.needs.memory_here", lambda: 24 * 10**9)
    asked = ["--set", "model.preset=llama-3-70b", "--set", f"run.dir={tmp_path / 'runs'}", "--set", "run.device=cpu"]
    with pytest.raises(SystemExit) as done:
        cli.main(["run", "quickstart", *asked])
    assert done.value.code == 3
    assert "24.0 GB [" not in (told := capsys.readouterr().err)
    assert "this machine has 24.0 GB" in told
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit) as done:
        cli.main(["config", "validate", "quickstart", *asked])
    assert done.value.code == 0, "it may be meant for another machine"
    assert "this machine has 24.0 GB" in capsys.readouterr().err


def test_a_model_that_memory_cannot_hold_is_not_loaded(tmp_path, monkeypatch):
    config = ModelConfig(32, 2, 4, 2, 48, 300)
    save_model(init_weights(Transformer(config), 0), tmp_path)
    monkeypatch.setattr("llama3.checkpoints.load.memory_here", lambda: 4 * config.num_params() - 1)
    with pytest.raises(DoesNotFit, match="L3-MEM-002"):
        load_model(tmp_path)
    assert load_model(tmp_path, dtype=torch.bfloat16).config == config
    loaded = load({"model": {"path": str(tmp_path)}, "run": {"dir": str(tmp_path / "runs")}}, environ={})
    monkeypatch.setattr("llama3.training.room.memory_here", lambda: 16 * config.num_params() - 1)
    with pytest.raises(DoesNotFit, match="finetuning all weights"):
        run(loaded)
    assert not (tmp_path / "runs").exists()


def test_there_is_memory_here():
    assert memory_here() > 10**8
    assert "llama-3-70b" in PRESETS
