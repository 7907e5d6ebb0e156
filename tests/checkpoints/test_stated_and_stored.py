"""What files say twice, half or in passing: the same model as other programs make of it, or a refusal by name."""

from __future__ import annotations

import json
import math

import gguf
import pytest
import torch
from model_files import CONFIG, logits_of, random_model, write_gguf
from safetensors.torch import load_file, save_file

from llama3.checkpoints.convert import convert
from llama3.checkpoints.load import load_model, read_config
from llama3.checkpoints.weights import save_model
from llama3.errors import CheckpointError
from llama3.tokenizer import Tokenizer

TOKENS = torch.arange(5, 150)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture
def folder(model, tmp_path):
    save_model(model, tmp_path / "m")
    return tmp_path / "m"


def edit(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def theirs(folder):
    transformers = pytest.importorskip("transformers")
    with torch.no_grad():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS[None]).logits[0]


def same_as_transformers(folder):
    torch.testing.assert_close(logits_of(load_model(folder), TOKENS), theirs(folder), atol=1e-4, rtol=0)


# -- a tied output matrix --------------------------------------------------------------------------


@pytest.mark.parametrize("shard", [1 << 30, 20_000])
def test_a_trained_head_is_kept_although_the_config_says_tied(shard, model, tmp_path):
    save_model(model, tmp_path / "m", max_shard_bytes=shard)
    edit(tmp_path / "m", tie_word_embeddings=True)
    assert not read_config(tmp_path / "m").tied
    same_as_transformers(tmp_path / "m")


def test_convert_keeps_it_and_says_so_in_the_config(tmp_path):
    import dataclasses

    tokenizer = Tokenizer.train([f"line {n}: fox {n * n} times" for n in range(99)], 280, num_special=16)
    save_model(random_model(dataclasses.replace(CONFIG, vocab_size=280)), tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    edit(tmp_path / "m", tie_word_embeddings=True)
    out = convert(tmp_path / "m", tmp_path / "out", "hf").folder
    assert torch.equal(theirs(tmp_path / "m"), theirs(out))
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_same_matrix_twice_is_tied_and_either_name_will_do(model, tmp_path):
    for name in ("both", "head"):
        save_model(model, tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        if name == "head":
            del tensors["model.embed_tokens.weight"]
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
        edit(tmp_path / name, tie_word_embeddings=True)
        assert read_config(tmp_path / name).tied
        same_as_transformers(tmp_path / name)


# -- RoPE, old keys and new ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 10_000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        {"rope_theta": 500_000.0, "rope_scaling": {"rope_theta": 20_000.0, "rope_type": "default"}},
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}, "rope_parameters": {"rope_theta": 5e5}},
        {"rope_scaling": None, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}},
        {"rope_scaling": {}, "rope_parameters": {**LLAMA3, "rope_theta": 3e4, "original_max_position_embeddings": 64}},
        {"rope_scaling": LLAMA3},  # the original context is then that of the config
        {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}, "original_max_position_embeddings": 32},
        {"rope_scaling": {**LLAMA3, "type": "linear", "original_max_position_embeddings": 64}},
    ],
)
def test_of_old_and_new_keys_those_count_that_count_for_transformers(keys, folder):
    edit(folder, **{"rope_theta": 10_000.0, **keys})
    same_as_transformers(folder)


# -- values of another type ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ["rope_scaling.low_freq_factor is missing"]),
        ({"rope_scaling": "linear"}, ['rope_scaling is "linear", not an object']),
        ({"rope_theta": "abc", "rms_norm_eps": None}, ['rope_theta is "abc", not a number', "rms_norm_eps is null"]),
        ({"rms_norm_eps": 10**400}, ["rms_norm_eps is a huge number, not a number"]),
        ({"hidden_size": "64", "vocab_size": [1]}, ['hidden_size is "64", not a whole', "vocab_size is a list"]),
        ({"num_hidden_layers": True, "head_dim": 2.5}, ["num_hidden_layers is true", "head_dim is 2.5"]),
        ({"tie_word_embeddings": "yes", "max_position_embeddings": {}}, ['is "yes", not true', "is an object, not a"]),
        ({"model_type": ["llama"]}, ["model_type is"]),
        ({"rope_scaling": {"rope_type": ["llama3"]}}, ["rope_scaling.rope_type"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, ["rope_scaling.rope_type"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantization_config"]),
        ({"num_attention_heads": None}, ["num_attention_heads is null"]),
    ],
)
def test_a_value_of_another_type_is_named(keys, told, folder):
    edit(folder, **keys)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert all(words in str(caught.value) for words in told), caught.value
    assert "config.json: " in str(caught.value)


@pytest.mark.parametrize("value", ["int8", {"scheme": 5}, {"scheme": "int8"}, {"options": {}}, []])
def test_a_quantization_that_is_none_is_named(value, folder):
    edit(folder, quantization=value)
    with pytest.raises(CheckpointError, match="L3-QNT-004"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5_000, '{"a": ' + "[" * 70 + "]" * 70 + "}", "\xff", '"x"'])
def test_json_without_end_is_a_problem_with_its_place(text, folder):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: .*L3-CKP-002"):
        load_model(folder)


# -- GGUF ------------------------------------------------------------------------------------------

SCALE = CONFIG.head_dim**-0.5
WRITE = {float: "add_float32", bool: "add_bool", str: "add_string", int: "add_uint32"}


def gguf_with(path, model, pairs):
    def change(writer: gguf.GGUFWriter) -> None:
        for key, value in pairs.items():
            getattr(writer, WRITE[type(value)])(f"llama.{key}", value)

    return write_gguf(path, model, change=change)


@pytest.mark.parametrize(
    "pairs",
    [
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
        {"rope.scaling.factor": 0.0, "rope.scale_linear": 4.0},
        {"rope.scaling.factor": math.nan},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope.scaling.type": "yarn"},
        {"rope.scaling.attn_factor": 0.5},
        {"rope.scaling.alpha": 2.0},
        {"attention.scale": 0.5},
        {"attention.causal": False},
        {"attention.sliding_window": 64},
        {"attention.clamp_kqv": 8.0},
        {"attention.max_alibi_bias": 8.0},
        {"final_logit_softcapping": 30.0},
        {"logit_scale": 0.5},
        {"expert_count": 4},
        {"use_parallel_residual": True},
        {"attention.key_length": 32},
        {"attention.value_length": 32},
        {"a.key.of.tomorrow": 1},
    ],
)
def test_a_key_that_changes_the_maths_is_refused(pairs, model, tmp_path):
    path = gguf_with(tmp_path / "m.gguf", model, pairs)
    with pytest.raises(CheckpointError, match=r"L3-GGF-010"):
        load_model(path)


def test_keys_that_change_nothing_are_fine(model, tmp_path):
    pairs = {
        "rope.scaling.type": "none", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "rope.scaling.finetuned": True, "attention.scale": SCALE, "attention.causal": True, "expert_count": 0,
        "tensor_data_layout": "Meta AI original pth", "attention.sliding_window": 0, "attention.value_length": 16,
    }  # fmt: skip
    path = gguf_with(tmp_path / "m.gguf", model, pairs)
    assert torch.equal(logits_of(load_model(path), TOKENS), logits_of(model, TOKENS))
    linear = gguf_with(tmp_path / "l.gguf", model, {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0})
    assert read_config(linear) == CONFIG


def test_a_part_of_the_channels_turned_is_refused(model, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", model)
    data = path.read_bytes()
    key = b"llama.rope.dimension_count" + (4).to_bytes(4, "little")
    assert data.count(key) == 1
    path.write_bytes(data.replace(key + (16).to_bytes(4, "little"), key + (8).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match=r"rope\.dimension_count is 8.*L3-GGF-010"):
        load_model(path)
