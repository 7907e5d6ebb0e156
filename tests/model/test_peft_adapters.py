"""Adapters as `peft` saves them, with its options: the model that peft makes of them, or a refusal by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama3.checkpoints.adapter import base_hash, save_adapter
from llama3.checkpoints.peft_adapter import load_adapter
from llama3.checkpoints.weights import save_model
from llama3.config.schema import LoRASection
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.lora import adapter_tensors, adapters, add_lora, merge
from llama3.model.transformer import Transformer

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=48, vocab_size=64)
TOKENS = torch.arange(20) * 7 % 64


def base() -> Transformer:
    return init_weights(Transformer(CONFIG), 1)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_model(base(), folder)
    return folder


def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(base_folder, folder, **options):
    """An adapter whose every trainable parameter was moved, saved; the logits of the model that peft makes of it."""
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(theirs(base_folder), peft.LoraConfig(**(chosen | options)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(theirs(base_folder), folder).eval()
    with torch.no_grad():
        return again(TOKENS[None]).logits[0]


def logits(model):
    with torch.no_grad():
        return model.logits(model.hidden(Batch.of_documents(TOKENS)))


@pytest.mark.parametrize(
    "options",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"target_modules": r".*self_attn\.(q|v)_proj"},
        {"target_modules": ["self_attn.q_proj", "up_proj"]},
        {"target_modules": "all-linear"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["lm_head", "input_layernorm", "embed_tokens"]},
        {"rank_pattern": {"q_proj": 2, "v_proj": 8}, "target_modules": ["q_proj", "k_proj", "v_proj"]},
        {"alpha_pattern": {"layers.1.self_attn.v_proj": 32, "q_proj": 1}, "rank_pattern": {"^model.layers.0.mlp": 3}},
        {"use_rslora": True, "rank_pattern": {"v_proj": 9}, "alpha_pattern": {"q_proj": 3}},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.5, "fan_in_fan_out": True},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
def test_usual_options_give_the_model_that_peft_makes(options, base_folder, tmp_path):
    wanted = trained(base_folder, tmp_path / "adapter", **options)
    model = base()
    load_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(model), wanted, atol=3e-5, rtol=1e-4)
    merge(model)
    assert not adapters(model)
    torch.testing.assert_close(logits(model), wanted, atol=3e-5, rtol=1e-4)
    assert (wanted - logits(base())).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"init_lora_weights": "pissa"}, "L3-LRA-010"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "L3-LRA-010"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, "bias"),
        ({"trainable_token_indices": [20, 21]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [20, 21]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"target_modules": ["q_proj", "lm_head"]}, "embedding or the output matrix"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embedding or the output matrix"),
    ],
    ids=str,
)
def test_options_that_change_the_base_or_the_forward_are_refused_by_name(options, told, base_folder, tmp_path):
    trained(base_folder, tmp_path / "adapter", **options)
    model = base()
    with pytest.raises(CheckpointError, match=told) as caught:
        load_adapter(model, tmp_path / "adapter")
    assert "L3-LRA-0" in str(caught.value)
    assert torch.equal(logits(model), logits(base()))


@pytest.fixture
def ours(tmp_path):
    section = LoRASection(rank=4, targets=("q_proj", "up_proj"))
    model = add_lora(base(), section, 0)
    save_adapter(adapter_tensors(model), section, tmp_path, base_hash(model))
    return tmp_path


def edit(folder, **keys):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"r": 5_000_000}, r"L3-LRA-009"),
        ({"r": 0}, "the rank 0 is not"),
        ({"r": "4"}, 'r is "4", not a whole number'),
        ({"lora_alpha": None}, "lora_alpha is null"),
        ({"target_modules": 5, "rank_pattern": []}, "target_modules is 5.*rank_pattern is a list"),
        ({"rank_pattern": {"(a+)+$": 3}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 0}}, "the rank 0"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"init_lora_weights": "of tomorrow"}, "of tomorrow"),
        ({"init_lora_weights": {"a": 1}}, "L3-LRA-010"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
        ({"an_option_of_tomorrow": 1}, "an_option_of_tomorrow"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"target_modules": ["q_proj", "up_proj", "v_proj"]}, "L3-LRA-008"),
        ({"bias": ["none"]}, "bias"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_refused_before_anything_is_allocated(keys, told, ours, monkeypatch):
    edit(ours, **keys)
    asked = []
    monkeypatch.setattr("llama3.checkpoints.peft_adapter.give_adapters", lambda *found: asked.append(found))
    with pytest.raises(CheckpointError) as caught:
        load_adapter(base(), ours)
    text = " ".join(str(caught.value).split())
    assert asked == []
    import re

    assert re.search(told, text), text


def test_options_that_are_off_do_nothing(ours):
    edit(ours, use_dora=False, loftq_config={}, arrow_config=None, layer_replication=[], an_option_of_tomorrow=False)
    load_adapter(base(), ours)


def test_half_an_adapter_is_named(ours):
    tensors = load_file(ours / "adapter_model.safetensors")
    name = next(name for name in tensors if "layers.1" in name and "lora_B" in name)
    del tensors[name]
    save_file(tensors, ours / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name}.*L3-LRA-008"):
        load_adapter(base(), ours)


def test_facts_of_another_kind_are_named(ours):
    (ours / "llama3.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="L3-LRA-003"):
        load_adapter(base(), ours)
    (ours / "llama3.json").write_text('{"base": 5}')
    with pytest.raises(CheckpointError, match="L3-LRA-002"):
        load_adapter(base(), ours)
