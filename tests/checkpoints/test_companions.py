"""What stands beside the weights of a model goes wherever they go, and nothing else does."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from model_files import CONFIG, logits_of, random_model
from safetensors.torch import load_file, save_file

from llama3.checkpoints.adapter import base_hash, save_adapter
from llama3.checkpoints.convert import convert
from llama3.checkpoints.describe import describe
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.license import license_of
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.checkpoints.weights import save_model
from llama3.config.schema import LoRASection
from llama3.errors import CheckpointError
from llama3.model.lora import adapter_tensors, add_lora
from llama3.plugins.registry import discover
from llama3.posttraining.merging import merge_adapter
from llama3.tokenizer import Tokenizer

TOKENS = torch.arange(5, 60)
GENERATION = {"eos_token_id": [285, 293], "temperature": 0.25, "top_p": 0.8, "do_sample": True}
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "LICENSE",
    "USE_POLICY.md",
    "additional_chat_templates/tool_use.jinja",
)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"line {n}: the quick brown fox, {n * n} times" for n in range(100)], 300, num_special=16)


@pytest.fixture(scope="module")
def model(tokenizer):
    model = random_model(dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model


@pytest.fixture(scope="module")
def released(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    save_model(model, folder, dtype=torch.bfloat16, extra={"bos_token_id": 284, "eos_token_id": [285, 293]})
    tokenizer.save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "left"}))
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<|finetune_right_pad_id|>"}')
    (folder / "LICENSE").write_text("Llama 3 licence\n")
    (folder / "USE_POLICY.md").write_text("be kind\n")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    return folder


@pytest.fixture
def adapter(model, tmp_path):
    section = LoRASection(rank=2, targets=("q_proj",))
    adapted = add_lora(load_model_of(model), section, 0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    save_adapter(adapter_tensors(adapted), section, tmp_path / "adapter", base_hash(adapted))
    return tmp_path / "adapter"


def load_model_of(model):
    again = random_model(model.config)
    again.load_state_dict(model.state_dict())
    return again


def carried(source, out):
    for name in CARRIED:
        assert (out / name).read_bytes() == (source / name).read_bytes(), name
    raw = json.loads((out / "config.json").read_text())
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["dtype"]) == (284, [285, 293], "bfloat16")
    assert license_of(out) == "Llama 3 licence"


def test_merge_carries_what_the_base_says_and_keeps_its_precision(released, adapter, tmp_path):
    report = merge_adapter(released, adapter, tmp_path / "out")
    carried(released, tmp_path / "out")
    assert open_weights(tmp_path / "out").dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / "llama3.json").read_text())["merged"] == report.to_json()
    assert 0 < report.max_abs_error < 0.01, "the sum is rounded to bfloat16, and that is told"
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    load = transformers.AutoModelForCausalLM.from_pretrained
    ours = load(tmp_path / "out")
    assert (ours.generation_config.eos_token_id, ours.generation_config.temperature) == ([285, 293], 0.25)
    assert ours.dtype == torch.bfloat16
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").padding_side == "left"
    theirs = peft.PeftModel.from_pretrained(load(released, dtype=torch.float32), adapter).merge_and_unload()
    wanted = theirs.state_dict()["model.layers.0.self_attn.q_proj.weight"].bfloat16()
    assert torch.equal(ours.state_dict()["model.layers.0.self_attn.q_proj.weight"], wanted)


def test_convert_carries_it_too(released, tmp_path):
    carried(released, convert(released, tmp_path / "out", "hf").folder)


def test_a_base_without_such_files_gets_those_of_its_tokenizer(model, tokenizer, adapter, tmp_path):
    save_model(model, tmp_path / "bare")
    tokenizer.save(tmp_path / "bare" / "tokenizer.json")
    merge_adapter(tmp_path / "bare", adapter, tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out") == tokenizer
    stated = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert stated["eos_token_id"] == sorted(tokenizer.stop_ids)


# -- quantized releases of ours --------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["own head", "tied"])
def int8(request, tokenizer, tmp_path):
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, tied=request.param)
    quantized, scheme = random_model(config), discover().build("quantization", "int8", {})
    quantize_model(quantized, scheme)
    save_quantized(quantized, tmp_path / "int8", "int8", scheme, rest=torch.float32)
    tokenizer.save(tmp_path / "int8")
    return tmp_path / "int8"


@pytest.mark.parametrize("to", ["hf", "meta"])
def test_convert_reads_int8_releases(to, int8, tmp_path):
    made = convert(int8, tmp_path / "out", to)
    assert made.dtype == "float32"
    torch.testing.assert_close(
        logits_of(load_model(made.folder), TOKENS), logits_of(load_model(int8), TOKENS), atol=1e-4, rtol=0
    )
    if to == "hf":
        theirs = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(made.folder)
        with torch.no_grad():
            found = theirs(TOKENS[None]).logits[0]
        torch.testing.assert_close(found, logits_of(load_model(int8), TOKENS), atol=1e-4, rtol=0)


def test_an_int8_release_says_first_how_others_load_it(int8):
    first, *_ = json.loads((int8 / "config.json").read_text()).values()
    assert "llama3 convert" in first
    assert "transformers" in first
    facts = describe(int8)
    assert facts["weights"]["quantization"] == "int8"
    assert facts["weights"]["types"]["I8"] == 8


def test_a_damaged_int8_release_is_named(int8, tmp_path):
    tensors = load_file(int8 / "model.safetensors")
    del tensors["layers.1.ffn.down.scale"]
    save_file(tensors, int8 / "model.safetensors")
    with pytest.raises(CheckpointError, match="L3-QNT-002"):
        convert(int8, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()
