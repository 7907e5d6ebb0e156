"""FBGEMM's FP8: written, read back by transformers' own reader and by ours, and refused where it does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_compressed_tensors import CONFIG, logits, quantized

from llama3.checkpoints.convert import convert
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.load import load_model
from llama3.errors import CheckpointError
from llama3.plugins.registry import discover
from llama3_plugins.quantization.fp8_rowwise import fp8_rows


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(our folder, the same model in FBGEMM's layout)."""
    folder = tmp_path_factory.mktemp("fbgemm")
    ours = quantized(folder / "ours", "fp8_rowwise")
    convert(ours, folder / "theirs", "fbgemm_fp8")
    return ours, folder / "theirs"


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """transformers asks for a GPU and for FBGEMM's two operators. Codes of inputs come from the definition instead, and
    products from torch's own operator, as transformers has it where there is no FBGEMM."""
    from transformers.integrations import fbgemm_fp8
    from transformers.quantizers.quantizer_fbgemm_fp8 import FbgemmFp8HfQuantizer

    monkeypatch.setattr(FbgemmFp8HfQuantizer, "validate_environment", lambda *args, **kwargs: None)
    by_rows = lambda x, scale_ub: fp8_rows(x, scale_ub.item())
    monkeypatch.setattr(fbgemm_fp8, "get_quantize_fp8_per_row", lambda: by_rows)
    monkeypatch.setattr(fbgemm_fp8, "quantize_fp8_per_row", by_rows, raising=False)
    monkeypatch.setattr(fbgemm_fp8, "_is_torch_xpu_available", True)


def test_transformers_reads_the_same_tensors(written, as_on_a_gpu):
    from transformers import AutoModelForCausalLM
    from transformers.integrations.fbgemm_fp8 import FbgemmFp8Linear

    ours, theirs = written
    model, told = AutoModelForCausalLM.from_pretrained(theirs, dtype=torch.bfloat16, output_loading_info=True)
    assert not any(told.values()), told
    source, coded = open_weights(ours), set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.float()
            if isinstance(module, FbgemmFp8Linear):
                coded.add(name)
                assert (module.weight.dtype, module.weight_scale.dtype) == (torch.float8_e4m3fn, torch.float32)
                assert module.weight_scale.shape == (module.out_features, 1)
                assert module.input_scale_ub == 1200
                weight = weight * module.weight_scale
            if name != "lm_head" or not CONFIG.tied:
                torch.testing.assert_close(weight, source.get(f"{name}.weight").float(), rtol=1e-6, atol=0)
    parts = ("gate_proj", "up_proj", "down_proj")
    assert coded == {f"model.layers.{layer}.mlp.{part}" for layer in (1, 2) for part in parts}


def test_transformers_computes_what_our_modules_compute(written, as_on_a_gpu):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(written[1], dtype=torch.bfloat16).model.layers[1].mlp.down_proj
    ours = load_model(written[0], dtype=torch.bfloat16).layers["1"].ffn.down
    x_TC = torch.randn(5, CONFIG.ffn_dim, generator=torch.Generator().manual_seed(1)).bfloat16()
    x_TC[3, 7] = 1e5  # far beyond the cap
    with torch.no_grad():
        torch.testing.assert_close(theirs(x_TC), ours(x_TC), rtol=2**-7, atol=1e-3)


def test_what_was_written_reads_back_as_the_same_model(written, tmp_path):
    ours, theirs = written
    one, other = open_weights(ours), open_weights(theirs)
    assert one.shapes == other.shapes
    for name in one.shapes:
        torch.testing.assert_close(other.get(name).float(), one.get(name).float(), rtol=1e-6, atol=0)
    convert(ours, tmp_path / "plain", "hf")
    assert torch.equal(logits(load_model(theirs)), logits(load_model(tmp_path / "plain")))


def test_a_cap_that_is_stored_beside_each_matrix_is_read_over(written, tmp_path):
    """Some writers do so."""
    tensors = load_file(written[1] / "model.safetensors")
    modules = [name.removesuffix("weight_scale") for name in tensors if name.endswith("weight_scale")]
    assert modules
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_bytes((written[1] / "config.json").read_bytes())
    capped = {f"{module}input_scale_ub": torch.tensor([1200.0]) for module in modules}
    save_file(tensors | capped, folder / "model.safetensors")
    assert torch.equal(logits(load_model(folder)), logits(load_model(written[1])))


@pytest.mark.parametrize(("cap", "said"), [(800.0, 800.0), (None, torch.finfo(torch.float32).max)])
def test_the_cap_is_the_scheme_s(tmp_path, cap, said):
    scheme = discover().build("quantization", "fp8_rowwise", {"cap": cap})
    convert(quantized(tmp_path / "ours", "fp8_rowwise", scheme), tmp_path / "theirs", "fbgemm_fp8")
    entry = json.loads((tmp_path / "theirs" / "config.json").read_bytes())["quantization_config"]
    assert (entry["quant_method"], entry["activation_scale_ub"]) == ("fbgemm_fp8", said)


@pytest.mark.parametrize("scheme", ["int4", "int8", "int8_dynamic"])
def test_other_schemes_are_refused(tmp_path, scheme):
    ours = quantized(tmp_path / "ours", scheme)
    with pytest.raises(CheckpointError, match=rf"{scheme}.*fbgemm_fp8 has not.*L3-CNV-007"):
        convert(ours, tmp_path / "out", "fbgemm_fp8")
    assert not (tmp_path / "out").exists()


def test_only_what_a_scheme_quantized_is_written(written, tmp_path):
    convert(written[0], tmp_path / "plain", "hf")
    with pytest.raises(CheckpointError, match="L3-CNV-006"):
        convert(tmp_path / "plain", tmp_path / "out", "fbgemm_fp8")
