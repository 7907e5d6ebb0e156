"""The exporter `gguf`: what llama.cpp would read, read by the package `gguf` and by our own reader."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from model_files import permuted, random_model, real_gguf, renamed

from llama3.checkpoints.formats import load_tokenizer
from llama3.checkpoints.gguf import GgufWeights
from llama3.checkpoints.load import load_model
from llama3.checkpoints.weights import save_model, to_hf
from llama3.errors import CheckpointError, DataError
from llama3.inference.llama import Llama
from llama3.model.config import ModelConfig, RopeScaling
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer, stop_ids

TEXTS = [f"line {n}: the quick brown fox jumps over the lazy dog; 'tis {n * n} times" for n in range(100)]
SHAPES = {
    "plain": ModelConfig(64, 2, 4, 2, 96, 320, max_seq_len=128),
    "tied, padded rows, wide heads": ModelConfig(64, 2, 4, 1, 96, 333, max_seq_len=128, tied=True, head_dim=32),
    "scaled positions": ModelConfig(
        64, 2, 4, 2, 96, 320, rope_theta=500_000.0, max_seq_len=4096, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192)
    ),
    "rows that blocks are not made of": ModelConfig(48, 1, 4, 2, 96, 320, max_seq_len=128),
}
# Half a step of the type's grid, of the largest value of a block (Q4_0: one step, where the other end is clamped), and
# float16's rounding of the step.
BOUNDS = {"F32": 0.0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 0.5 / 127 + 2**-10, "Q4_0": 1 / 8 + 2**-10}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 320, 16)


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    def make(config=SHAPES["plain"]):
        model = random_model(config)
        save_model(model, tmp_path / "checkpoint")
        tokenizer.save(tmp_path / "checkpoint")
        return tmp_path / "checkpoint", model

    return make


def exported(checkpoint, folder, type="F16"):
    folder.mkdir()
    exporter = discover().build("exporters", "gguf", {"type": type})
    made = exporter.export(checkpoint, folder)
    return made, exporter.verify(folder)


@pytest.mark.parametrize("type", BOUNDS)
def test_the_package_reads_the_tensors_within_the_bound_of_their_type(checkpoint, tmp_path, type):
    folder, model = checkpoint()
    made, report = exported(folder, tmp_path / "out", type)
    assert report.passed
    assert report.same_tokens == 32
    assert (made.rounding == 0) == (type == "F32")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    wanted = {
        renamed(name, 0): permuted(name, tensor, model.config)
        for name, tensor in to_hf(model.config, model.state_dict()).items()
    }
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        values = gguf.quants.dequantize(np.array(found[name].data), found[name].tensor_type)
        exact = tensor.numpy().reshape(values.shape)
        blocks = exact.reshape(-1, 32) if exact.ndim > 1 else exact.reshape(-1, 1)
        bound = BOUNDS[found[name].tensor_type.name] * np.abs(blocks).max(1, keepdims=True)
        assert (np.abs(values.reshape(blocks.shape) - blocks) <= bound).all(), name
    kept = {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 1}
    assert kept == {"F32"}
    in_layers = {tensor.tensor_type.name for name, tensor in found.items() if "ffn_up" in name}
    assert in_layers == {type}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_model_comes_back_with_its_tokenizer(checkpoint, tmp_path, tokenizer, shape):
    folder, _ = checkpoint(SHAPES[shape])
    _, report = exported(folder, tmp_path / "out", "Q8_0" if shape.startswith("rows") else "F32")
    assert report.passed
    file = tmp_path / "out" / "model.gguf"
    source = GgufWeights(file)
    assert source.config == SHAPES[shape]
    assert set(source.types) == ({"F32", "F16", "Q8_0"} if shape.startswith("rows") else {"F32"})
    back = load_tokenizer(file)
    assert back.chat_template == tokenizer.chat_template
    assert stop_ids(back) == stop_ids(tokenizer)
    assert (back.bos_id, back.eos_id, back.add_bos) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos)
    for text in [*TEXTS[:3], "<|eot_id|>", "naïve 中文 😀"]:
        assert back.encode(text, bos=True).tolist() == tokenizer.encode(text, bos=True).tolist()


def test_it_answers_as_the_checkpoint_does(checkpoint, tmp_path):
    folder, _ = checkpoint()
    exported(folder, tmp_path / "out", "F32")
    ours, theirs = Llama.load(folder), Llama.load(tmp_path / "out" / "model.gguf")
    prompt = "the quick brown"
    assert ours.generate(prompt, temperature=0, max_tokens=20) == theirs.generate(prompt, temperature=0, max_tokens=20)
    message = [{"role": "user", "content": "fox?"}]
    assert ours.chat(message, temperature=0, max_tokens=9) == theirs.chat(message, temperature=0, max_tokens=9)


def test_names_license_and_file_type_are_stated(checkpoint, tmp_path):
    folder, _ = checkpoint()
    (folder / "LICENSE").write_text("Apache License\n")
    exported(folder, tmp_path / "out", "Q4_0")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["general.license"].contents() == "Apache License"
    assert fields["general.name"].contents() == "checkpoint"
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_0
    assert fields["tokenizer.ggml.pre"].contents() == "llama-bpe"


def test_a_weight_that_the_type_cannot_hold_is_refused_by_name(checkpoint, tmp_path):
    folder, model = checkpoint()
    with torch.no_grad():
        model.layers["1"].ffn.down.weight[0, 0] = 1e6
    save_model(model, folder)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight in F16"):
        exported(folder, tmp_path / "out")


def test_a_reward_model_is_refused(tmp_path, tokenizer):
    model = random_model(SHAPES["plain"])
    model = type(model)(model.config, score_head=True)
    save_model(model, tmp_path / "reward")
    tokenizer.save(tmp_path / "reward")
    with pytest.raises(CheckpointError, match="L3-EXP-003"):
        exported(tmp_path / "reward", tmp_path / "out")


def test_a_split_rule_that_gguf_has_no_name_for_is_refused(checkpoint, tmp_path):
    folder, _ = checkpoint()
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace(r"\\p{N}{1,3}", r"\\p{N}{1,2}"))
    assert load_tokenizer(folder).encode("1234").tolist()
    with pytest.raises(DataError, match="L3-TOK-015"):
        exported(folder, tmp_path / "out")


def test_a_reader_that_finds_other_values_is_told_of(checkpoint, tmp_path, monkeypatch):
    folder, _ = checkpoint()
    exported(folder, tmp_path / "out")
    monkeypatch.setattr(GgufWeights, "get", lambda self, name: torch.zeros(self.shapes[name]))
    with pytest.raises(CheckpointError, match="L3-GGF-014"):
        discover().build("exporters", "gguf").verify(tmp_path / "out")


@pytest.mark.real
def test_the_real_model_s_vocabulary_comes_back():
    tokenizer = load_tokenizer(real_gguf())
    metadata = tokenizer.to_gguf(tokenizer.vocab_size, stop_ids(tokenizer))
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert Tokenizer.from_gguf(metadata) == tokenizer


def test_weights_are_the_same_in_every_layout_of_origin(checkpoint, tmp_path):
    """GGUF to GGUF: what is dequantized is written as it is."""
    folder, _ = checkpoint()
    exported(folder, tmp_path / "out", "Q8_0")
    _, report = exported(tmp_path / "out" / "model.gguf", tmp_path / "again", "F32")
    assert report.passed
    once, twice = load_model(tmp_path / "out" / "model.gguf"), load_model(tmp_path / "again" / "model.gguf")
    for name, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[name]), name
