"""`llama3 convert` and `llama3 show` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(100)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from llama3.checkpoints.weights import save_model
    from llama3.model.build import init_weights
    from llama3.model.config import ModelConfig
    from llama3.model.transformer import Transformer
    from llama3.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(TEXTS, 300, num_special=16)
    config = ModelConfig(16, 1, 2, 1, 32, tokenizer.vocab_size, max_seq_len=256)
    save_model(init_weights(Transformer(config), 0), folder)
    tokenizer.save(folder)
    (folder / "LICENSE").write_text("Apache License\n")
    return folder


def test_show_says_what_the_model_is(llama3, model):
    code, out, err = llama3("show", model)
    assert code == 0, err
    shown = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "1 layers, width 16, 2 heads, 1 key-value heads of 8, FFN 32" in shown["architecture"]
    assert "F32 x 12" in shown["tensor types"]
    stored = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    assert shown["on disk"].endswith(f"  {stored / 1e3:.1f} kB")
    assert "byte-level BPE, 300 tokens, 16 of them special, begins texts with BOS" in shown["tokenizer"]
    assert "Llama 3's rule" in shown["split rule"]
    assert "Llama 3" in shown["chat template"]
    assert "Apache License" in shown["license"]


def test_show_as_json_has_the_parameters_and_the_memory(llama3, model):
    code, out, _ = llama3("show", model, "--json")
    facts = json.loads(out)
    parameters = 2 * 300 * 16 + 16 + (16 * 16 * 2 + 2 * 8 * 16 + 3 * 16 * 32 + 2 * 16)
    assert code == 0
    assert facts["parameters"] == parameters
    assert facts["memory"]["serve"] == 2 * parameters + 2 * 2 * 1 * 8 * 256
    assert facts["memory"]["finetune"] == 16 * parameters
    adapters = 16 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))
    assert facts["memory"]["lora"] == 4 * parameters + 16 * adapters
    assert facts["license"] == "Apache License"


def test_convert_there_and_back(llama3, model, tmp_path):
    code, out, err = llama3("convert", model, tmp_path / "meta", "--to", "meta", "--dtype", "bf16")
    assert code == 0, err
    assert "bfloat16, layout meta" in out
    assert "tokenizer.json is there instead" in err
    code, out, _ = llama3("convert", tmp_path / "meta", tmp_path / "hf", "--to", "hf", "--json")
    assert code == 0
    assert json.loads(out)["dtype"] == "bfloat16"
    code, out, _ = llama3("show", tmp_path / "hf", "--json")
    assert json.loads(out)["weights"]["types"] == {"BF16": 12}
    assert json.loads(llama3("show", tmp_path / "meta", "--json")[1])["layout"] == "meta"


def test_convert_and_show_refuse_in_words(llama3, model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("")
    code, _, err = llama3("convert", model, tmp_path / "mine", "--to", "hf")
    assert code == 2
    assert "is not empty" in err
    code, _, err = llama3("show", tmp_path / "mine")
    assert code == 1
    assert "no model is here" in err


def test_show_tells_of_a_tokenizer_that_cannot_be_read(llama3, model, tmp_path):
    import shutil

    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    code, out, _ = llama3("show", bare)
    assert code == 0
    assert "holds neither tokenizer.json nor tokenizer.model" in out


def test_show_reads_quantized_models_too(llama3, model, tmp_path):
    from llama3.checkpoints.load import load_model
    from llama3.checkpoints.quantized import quantize_model, save_quantized
    from llama3.plugins.registry import discover
    from llama3.tokenizer import Tokenizer

    scheme = discover().build("quantization", "int8", {})
    loaded = load_model(model)
    quantize_model(loaded, scheme)
    save_quantized(loaded, tmp_path / "int8", "int8", scheme)
    code, out, err = llama3("show", tmp_path / "int8")
    assert code == 0, err
    assert "(scheme int8)" in out
    Tokenizer.load(model).save(tmp_path / "int8")
    code, out, err = llama3("convert", tmp_path / "int8", tmp_path / "out", "--to", "hf")
    assert code == 0, err
    assert "in float32, layout hf" in out
