"""Checkpoint directories: round trips, shards, initialisation, damage."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

CONFIG = ModelConfig(32, 2, 4, 2, 48, 61)
TIED = ModelConfig(32, 2, 4, 4, 48, 61, tied=True)


@pytest.fixture
def model() -> Transformer:
    return init_weights(Transformer(CONFIG), 0)


@pytest.mark.parametrize("config", [CONFIG, TIED])
@pytest.mark.parametrize("shard", [10_000, 1 << 30])
def test_save_and_load_are_exact(config, shard, tmp_path) -> None:
    model = init_weights(Transformer(config, value_head=True, score_head=True), 3)
    save_model(model, tmp_path, max_shard_bytes=shard)
    loaded = load_model(tmp_path)
    assert loaded.config == config
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (loaded.lm_head.weight is loaded.embed.weight) == config.tied
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not list(tmp_path.glob("*.tmp-*"))
    assert (tmp_path / "model.safetensors").exists() == (shard > 10_000)


def test_files_are_readable_by_whom_the_umask_says(model, tmp_path) -> None:
    before = os.umask(0o027)
    try:
        save_model(model, tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes == {"config.json": "0o640", "model.safetensors": "0o640"}


def test_bfloat16_files_load_as_asked(model, tmp_path) -> None:
    save_model(model, tmp_path, dtype=torch.bfloat16)
    assert load_model(tmp_path).embed.weight.dtype == torch.float32
    exact = load_model(tmp_path, dtype=torch.bfloat16).embed.weight
    assert torch.equal(exact, model.embed.weight.bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_initialisation_depends_on_seed_and_name_only(model) -> None:
    deeper = init_weights(Transformer(ModelConfig(32, 3, 4, 2, 48, 61)), 0)
    same, other = model.state_dict(), init_weights(Transformer(CONFIG), 1).state_dict()
    assert torch.equal(deeper.state_dict()["layers.1.ffn.gate_up.weight"], same["layers.1.ffn.gate_up.weight"])
    assert not torch.equal(other["embed.weight"], same["embed.weight"])
    assert not torch.equal(same["layers.0.ffn.gate_up.weight"], same["layers.1.ffn.gate_up.weight"])


def test_initial_predictions_are_near_uniform() -> None:
    model = init_weights(Transformer(TIED), 0)
    logits = model.logits(model.hidden(Batch.of_documents(range(61))))
    assert logits.std() < 2


def edit(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("L3-CKP-007", lambda t: t.update({NAME: torch.zeros(3, 3)})),
        ("L3-CKP-008", lambda t: t.pop(NAME)),
        ("L3-CKP-009", lambda t: t.update({"model.layers.9.x.weight": torch.zeros(1)})),
        ("L3-CKP-010", lambda t: t[NAME].view(-1)[5].fill_(float("nan"))),
    ],
)
def test_wrong_tensors_are_named(model, code, change, tmp_path) -> None:
    save_model(model, tmp_path)
    edit(tmp_path, change)
    with pytest.raises(CheckpointError, match=code) as caught:
        load_model(tmp_path)
    assert "layers." in str(caught.value)


def test_every_wrong_tensor_is_reported(model, tmp_path) -> None:
    save_model(model, tmp_path)
    edit(tmp_path, lambda t: (t.pop(NAME), t.update(extra=torch.zeros(1))))
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    assert {problem.code for problem in caught.value.problems} == {"L3-CKP-008", "L3-CKP-009"}


def test_damaged_folders_are_refused(model, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="L3-CKP-001"):
        load_model(tmp_path / "nowhere")
    save_model(model, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="L3-CKP-003"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never read"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="L3-CKP-002"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="L3-MDL-011"):
        load_model(tmp_path)


def test_damaged_shard_index_is_refused(model, tmp_path) -> None:
    save_model(model, tmp_path, max_shard_bytes=10_000)
    index = tmp_path / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["ghost"] = raw["weight_map"][NAME]
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="L3-CKP-006"):
        load_model(tmp_path)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="L3-CKP-005"):
        load_model(tmp_path)


def test_a_diverged_model_is_not_saved_over_a_good_one(model, tmp_path) -> None:
    save_model(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model.norm.weight.data[0] = float("inf")
    with pytest.raises(CheckpointError, match="L3-CKP-010"):
        save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
