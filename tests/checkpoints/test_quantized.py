"""Quantized models: int8 against its definition, checkpoints through the plugin registry, damage."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.checkpoints.weights import save_model
from llama3.errors import CheckpointError, PluginError
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.score import score
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3_plugins.quantization.int8 import Int8, Int8Linear, quantize_rows

CONFIG = ModelConfig(32, 2, 4, 2, 48, 61)
TIED = ModelConfig(32, 2, 4, 4, 48, 61, tied=True)
BATCH = Batch.of_documents([n * 7 % 61 for n in range(50)], [0, 20])


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-20, 1.0, 1e20]))
@settings(max_examples=60)
def test_int8_errs_by_half_a_step_at_most(seed, rows, columns, size) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight[0] = 0
    parts = quantize_rows(weight)
    step = torch.where(weight.abs().amax(1) > 0, weight.abs().amax(1) / 127, torch.ones(rows))
    error = (Int8().dequantize(parts) - weight).abs()
    assert (error <= step[:, None] * 0.5001).all()
    assert (error[0] == 0).all()
    assert parts["codes"].dtype == torch.int8
    assert parts["codes"].min() >= -127


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 16, 17])
def test_int8_linear_multiplies_by_the_dequantized_matrix(dtype, tolerance, rows) -> None:
    torch.manual_seed(0)
    parts = quantize_rows(torch.randn(24, 32))
    x = torch.randn(rows, 32).to(dtype)
    expected = x.double() @ Int8().dequantize(parts).double().t()
    got = Int8Linear(**parts)(x)
    assert got.dtype == dtype
    assert (got.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("config", [CONFIG, TIED])
def test_quantized_checkpoints_load_through_the_registry(config, tmp_path) -> None:
    original, model = (init_weights(Transformer(config), 0) for _ in range(2))
    scheme = discover().build("quantization", "int8")
    errors = quantize_model(model, scheme)
    assert [error.name for error in errors] == list(scheme.targets(config))
    assert all(0 < error.relative < 0.01 for error in errors)
    # One byte an element and four a row, where bfloat16 has two.
    assert all(error.bytes_after < 0.7 * error.bytes_before for error in errors)
    save_quantized(model, tmp_path, "int8", scheme, rest=torch.float32)
    loaded = load_model(tmp_path)
    with torch.no_grad():
        exact, here, there = (score(m, BATCH).logps_M for m in (original, model, loaded))
    assert torch.equal(here, there)
    assert 0 < (there - exact).abs().max() < 0.2
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_reported_errors_are_measured(tmp_path) -> None:
    model = init_weights(Transformer(CONFIG), 0)
    weight = model.layers["1"].ffn.down.weight.detach().clone()
    errors = {error.name: error for error in quantize_model(model, Int8())}
    difference = weight - Int8().dequantize(dict(model.layers["1"].ffn.down.named_buffers()))
    assert errors["layers.1.ffn.down"].max_abs == pytest.approx(difference.abs().max().item())
    assert errors["layers.1.ffn.down"].relative == pytest.approx((difference.norm() / weight.norm()).item())


def saved(folder):
    model, scheme = init_weights(Transformer(CONFIG), 0), Int8()
    quantize_model(model, scheme)
    save_quantized(model, folder, "int8", scheme)
    return folder


def test_transformers_refuses_instead_of_guessing(tmp_path) -> None:
    with pytest.raises(ValueError, match="llama3-quantized"):
        AutoModelForCausalLM.from_pretrained(saved(tmp_path))


def edit_config(folder, **changes) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def test_unknown_and_unnamed_schemes_are_refused(tmp_path) -> None:
    edit_config(saved(tmp_path), quantization={"scheme": "int7", "options": {}})
    with pytest.raises(PluginError, match="int7"):
        load_model(tmp_path)
    edit_config(tmp_path, quantization="int8")
    with pytest.raises(CheckpointError, match="L3-QNT-004"):
        load_model(tmp_path)


def edit_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("L3-QNT-002", lambda t: t.pop("layers.0.ffn.down.scale")),
        ("L3-QNT-002", lambda t: t.update({"layers.0.ffn.down.codes": torch.zeros(2, 2)})),
        ("L3-QNT-003", lambda t: t.update({"norm.weight": torch.zeros(3)})),
        ("L3-CKP-008", lambda t: t.pop("norm.weight")),
        ("L3-CKP-009", lambda t: t.update({"layers.0.extra": torch.zeros(1)})),
        ("L3-CKP-010", lambda t: t["layers.0.ffn.down.scale"].fill_(float("inf"))),
    ],
)
def test_damaged_quantized_checkpoints_are_refused(code, change, tmp_path) -> None:
    edit_tensors(saved(tmp_path), change)
    with pytest.raises(CheckpointError, match=code):
        load_model(tmp_path)


def test_schemes_that_break_the_contract_are_named() -> None:
    class OffTarget(Int8):
        def targets(self, config):
            return ["lm_head"]

    class Forgetful(Int8):
        def quantize(self, weights, calibration):
            return {}

    class Nowhere(Int8):
        def targets(self, config):
            return ["layers.7.ffn.down"]

    for scheme, code in ((OffTarget(), "L3-QNT-005"), (Forgetful(), "L3-QNT-001"), (Nowhere(), "L3-QNT-005")):
        with pytest.raises(PluginError, match=code):
            quantize_model(init_weights(Transformer(CONFIG), 0), scheme)


def test_saving_an_ordinary_model_over_a_quantized_one_replaces_it(tmp_path) -> None:
    model = init_weights(Transformer(CONFIG), 0)
    save_model(model, saved(tmp_path))
    assert torch.equal(load_model(tmp_path).norm.weight, model.norm.weight)
