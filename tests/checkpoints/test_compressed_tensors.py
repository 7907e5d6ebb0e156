"""Quantized models in other programs' layouts: written, read back, and computed with by transformers and the package
`compressed-tensors`."""

from __future__ import annotations

import json

import pytest
import torch
from model_files import random_model
from safetensors.torch import load_file, save_file

from llama3.checkpoints.convert import convert
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover
from llama3.testing.toys import toy_tokenizer
from llama3_plugins.quantization.int4 import Int4

VOCAB = toy_tokenizer().vocab_size
CONFIG = ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=256, vocab_size=VOCAB, max_seq_len=128)
IDS = [n * 7 % 61 for n in range(40)]
SCHEMES = ["fp8_rowwise", "int4", "int8", "int8_dynamic"]
FORMATS = {"fp8_rowwise": "float-quantized", "int4": "pack-quantized", "int8": "pack-quantized",
           "int8_dynamic": "int-quantized"}  # fmt: skip


def quantized(folder, name, scheme=None):
    """A toy model quantized by a scheme, with its tokenizer."""
    model, scheme = random_model(CONFIG), scheme or discover().build("quantization", name)
    quantize_model(model, scheme)
    save_quantized(model, folder, name, scheme)
    toy_tokenizer().save(folder)
    return folder


@pytest.fixture(scope="module", params=SCHEMES)
def written(request, tmp_path_factory):
    """(scheme, our folder, the same model in compressed-tensors)."""
    folder = tmp_path_factory.mktemp(request.param)
    ours = quantized(folder / "ours", request.param)
    convert(ours, folder / "theirs", "compressed-tensors")
    return request.param, ours, folder / "theirs"


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.logits(model.hidden(Batch.of_documents(ids)))


def test_what_was_written_reads_back_as_the_same_numbers(written):
    _, ours, theirs = written
    one, other = open_weights(ours), open_weights(theirs)
    assert one.shapes == other.shapes
    for name in one.shapes:
        torch.testing.assert_close(other.get(name).float(), one.get(name), rtol=1e-6, atol=0)
        for source in (one, other):
            assert torch.equal(source.part(name, (slice(1, 3),)), source.get(name)[1:3])
    assert torch.isfinite(logits(load_model(theirs))).all()


def test_config_says_what_is_quantized_and_how(written):
    scheme, _, theirs = written
    raw = json.loads((theirs / "config.json").read_text())
    said = raw["quantization_config"]
    assert raw["model_type"] == "llama"
    assert said["format"] == FORMATS[scheme]
    stored = load_file(theirs / "model.safetensors")
    modules = {name.rpartition(".")[0] for name in stored if name.endswith("weight_scale")}
    linear = {name.rpartition(".")[0] for name in stored if "_proj." in name}
    assert set(said["ignore"]) == (linear - modules) | {"lm_head"}
    inputs = said["config_groups"]["group_0"]["input_activations"]
    assert (inputs is not None) == (scheme in ("fp8_rowwise", "int8_dynamic"))


def test_transformers_computes_what_our_modules_compute(written):
    pytest.importorskip("compressed_tensors", reason="the package compressed-tensors is the oracle")
    from transformers import AutoModelForCausalLM

    scheme, ours, theirs = written
    model = AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.float32).eval()
    seen = {}
    model.model.layers[1].mlp.down_proj.register_forward_hook(lambda _, x, y: seen.update(x=x[0][0], y=y[0]))
    with torch.no_grad():
        found = model(torch.tensor([IDS])).logits[0]
    expected = logits(load_model(ours))
    if scheme == "int8_dynamic":  # it divides inputs by max / 127.5, vLLM and we by max / 127: two equal roundings
        assert (found - expected).norm() <= 2 * (expected - logits(load_model(theirs))).norm()
        return
    down = load_model(ours).layers["1"].ffn.down(seen["x"])
    assert (down - seen["y"]).norm() <= 1e-5 * down.norm(), "one matrix computes something else"
    # Over layers the order of sums matters: now and then the code of an input falls to its neighbour.
    assert (found - expected).norm() <= 5e-3 * expected.norm()
    exact = logits(random_model(CONFIG))
    assert (found - exact).norm() >= 2 * (found - expected).norm(), "no nearer than the model that was not quantized"


@pytest.mark.parametrize(("written", "bits"), [("int4", 4), ("int8", 8)], indirect=["written"])
def test_codes_are_packed_as_the_package_packs_them(written, bits):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    _, ours, theirs = written
    stored, name = load_file(theirs / "model.safetensors"), "model.layers.1.mlp.down_proj"
    codes = helpers.unpack_from_int32(stored[f"{name}.weight_packed"], bits, torch.Size(stored[f"{name}.weight_shape"]))
    scale = stored[f"{name}.weight_scale"]
    weight = (codes.unflatten(1, (scale.shape[1], -1)) * scale[..., None]).flatten(1)
    torch.testing.assert_close(weight, open_weights(ours).get(f"{name}.weight"), rtol=1e-6, atol=0)
    assert torch.equal(helpers.pack_to_int32(codes, bits), stored[f"{name}.weight_packed"])


def test_reading_and_quantizing_anew_finds_the_same_codes(tmp_path):
    """So that a released FP8 model computes here as it was made to."""
    ours, scheme = quantized(tmp_path / "ours", "fp8_rowwise"), discover().build("quantization", "fp8_rowwise")
    convert(ours, tmp_path / "theirs", "compressed-tensors")
    model, before = load_model(tmp_path / "theirs"), load_model(ours)
    quantize_model(model, scheme)
    for name, codes in before.named_buffers():
        again = model.get_buffer(name)
        assert torch.allclose(again.float(), codes.float(), rtol=1e-6, atol=0), name


def edit(folder, change):
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("L3-CKP-018", lambda t: t.update({"model.layers.1.mlp.down_proj.weight_scale": torch.ones(2, 2)})),
        ("L3-CKP-010", lambda t: t["model.layers.1.mlp.down_proj.weight_scale"].fill_(float("nan"))),
        ("L3-CKP-009", lambda t: t.update({"model.layers.1.mlp.down_proj.weight_zero_point": torch.ones(128, 1)})),
        ("L3-CKP-007", lambda t: t.update({"model.layers.1.mlp.down_proj.weight": torch.zeros(3, 3)})),
        ("L3-CKP-018", lambda t: t.pop("model.layers.1.mlp.down_proj.weight_scale")),
    ],
)
def test_damage_is_named(what, change, tmp_path):
    convert(quantized(tmp_path / "ours", "int8_dynamic"), tmp_path / "theirs", "compressed-tensors")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "theirs" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"down_proj.*{what}|{what}"):
        load_model(tmp_path / "theirs")


PACKED = "model.layers.1.mlp.down_proj.weight_packed"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("model.layers.1.mlp.down_proj.weight_scale"),
        lambda t: t.update({PACKED: t[PACKED].flatten()}),
        lambda t: t.update({PACKED: t[PACKED].double()}),
        lambda t: t.update({PACKED: t[PACKED][:, :-1].contiguous()}),
    ],
)
def test_damage_of_packed_codes_is_named(change, tmp_path):
    convert(quantized(tmp_path / "ours", "int8"), tmp_path / "theirs", "compressed-tensors")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "theirs" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"down_proj.*L3-CKP-0"):
        load_model(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("scheme", "stated"),
    [
        ("int4", {"group_size": 64}),
        ("int4", {"num_bits": 8}),
        ("int4", {"strategy": "channel", "group_size": None}),
        ("int8", {"num_bits": 4}),
        ("int8", {"strategy": "tensor"}),
        ("fp8_rowwise", {"strategy": "group", "group_size": 32}),
    ],
)
def test_a_description_of_another_checkpoint_is_refused(scheme, stated, tmp_path):
    convert(quantized(tmp_path / "ours", scheme), tmp_path / "theirs", "compressed-tensors")
    weights = lambda raw: raw["quantization_config"]["config_groups"]["group_0"]["weights"]
    edit(tmp_path / "theirs", lambda raw: weights(raw).update(stated))
    with pytest.raises(CheckpointError, match=r"_proj.weight: is kept in another form.*L3-CKP-019"):
        load_model(tmp_path / "theirs")


@pytest.mark.parametrize("groups", [7, {"group_0": {"weights": {"num_bits": "four"}}}])
def test_a_description_of_odd_types_is_refused(groups, tmp_path):
    convert(quantized(tmp_path / "ours", "int4"), tmp_path / "theirs", "compressed-tensors")
    edit(tmp_path / "theirs", lambda raw: raw["quantization_config"].update(config_groups=groups))
    with pytest.raises(CheckpointError, match="L3-CKP-020"):
        load_model(tmp_path / "theirs")


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", 7])
def test_other_ways_of_quantizing_are_refused_by_name(method, tmp_path):
    convert(quantized(tmp_path / "ours", "int8"), tmp_path / "theirs", "compressed-tensors")
    edit(tmp_path / "theirs", lambda raw: raw["quantization_config"].update(quant_method=method))
    with pytest.raises(CheckpointError, match="quantization_config"):
        open_weights(tmp_path / "theirs")


def test_only_what_a_scheme_quantized_is_written(tmp_path):
    convert(quantized(tmp_path / "ours", "int8"), tmp_path / "plain", "hf")
    with pytest.raises(CheckpointError, match="L3-CNV-006"):
        convert(tmp_path / "plain", tmp_path / "out", "compressed-tensors")
    assert not (tmp_path / "out").exists()


def test_codes_that_mean_something_else_are_not_written_as_if(tmp_path, monkeypatch):
    """Two to a byte, but counted from 0: the same types and shapes, other numbers."""
    monkeypatch.setattr("llama3_plugins.quantization.int4.unpack", lambda packed: _from_zero(packed))
    monkeypatch.setattr("llama3_plugins.quantization.int4.pack", lambda codes: _packed(codes))
    ours = quantized(tmp_path / "ours", "int4", Int4(discover().options("quantization", "int4", {})))
    with pytest.raises(CheckpointError, match=r"L3-CNV-007"):
        convert(ours, tmp_path / "out", "compressed-tensors")
    assert not (tmp_path / "out").exists()


def _packed(codes):
    counted = (codes + 8).view(torch.uint8)
    return counted[:, 0::2] | (counted[:, 1::2] << 4)


def _from_zero(packed):
    return torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(1).view(torch.int8) - 8
