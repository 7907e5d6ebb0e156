"""The quantization schemes against their definitions: FP8 by every way of computing it, int4 against Meta's own code,
int8 against whole numbers."""

from __future__ import annotations

import importlib
import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import quantize_model, save_quantized
from llama3.errors import CheckpointError, ConfigError
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.build import init_weights
from llama3.model.config import PRESETS, ModelConfig
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3_plugins.quantization.fp8_rowwise import E4M3, LARGEST, decoded, emulated, fp8_rows, scaled_mm
from llama3_plugins.quantization.int4 import pack, unpack
from llama3_plugins.quantization.matrices import int8_rows

CONFIG = ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=256, vocab_size=61, max_seq_len=64)
SEEDS = st.integers(0, 2**32)


def build(name, **options):
    return discover().build("quantization", name, options)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(codes_TC, scale_T, codes_RC, scale_R):
    """What the codes stand for, multiplied in float64."""
    x_TC, w_RC = codes_TC.double() * scale_T[:, None], codes_RC.double() * scale_R[:, None]
    return x_TC @ w_RC.t()


def lost(x, scale):
    """The most that E4M3 may lose of each element: half a unit of 3 bits of mantissa, or half of the least number."""
    return torch.maximum(x.abs() * 2**-4, scale[:, None] * 2**-10)


@pytest.mark.parametrize(("product", "rounding"), [(emulated, 1e-6), (scaled_mm, 2**-8)])
@given(SEEDS, st.integers(1, 5), st.sampled_from([1e-30, 1e-3, 1.0, 200.0]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_way_of_computing_fp8_is_within_the_bound_of_e4m3(product, rounding, seed, tokens, size, spiky):
    x_TC, w_RC = normal(seed, tokens, 32) * size, normal(seed + 1, 48, 32)
    if spiky:
        x_TC[0, 3] *= 50
        w_RC[5] *= 1e-4
        w_RC[7] = 0
    codes_TC, scale_T = fp8_rows(x_TC)
    codes_RC, scale_R = fp8_rows(w_RC)
    assert torch.allclose(scale_T, x_TC.abs().amax(1) / 448, atol=0)
    assert scale_R[7] == 1 or not spiky
    found = product(codes_TC, scale_T, codes_RC, scale_R).double()
    sums = x_TC.double().abs() @ w_RC.double().abs().t()
    assert ((found - reference(codes_TC, scale_T, codes_RC, scale_R)).abs() <= 1.2 * rounding * sums + 1e-37).all()
    lost_x, lost_w = lost(x_TC, scale_T).double(), lost(w_RC, scale_R).double()
    bound = lost_x @ w_RC.double().abs().t() + x_TC.double().abs() @ lost_w.t() + lost_x @ lost_w.t()
    assert ((found - x_TC.double() @ w_RC.double().t()).abs() <= bound + 1.2 * rounding * sums + 1e-37).all()


@given(SEEDS, st.sampled_from([math.inf, 1200.0, 3.0]))
@settings(max_examples=30, deadline=None)
def test_what_exceeds_the_cap_saturates_and_nothing_becomes_nan(seed, cap):
    x_TC = normal(seed, 4, 16) * torch.tensor([[1.0], [1e4], [0.0], [1e37]])
    codes_TC, scale_T = fp8_rows(x_TC, cap)
    limit_T = x_TC.abs().amax(1).clamp(max=cap)
    assert torch.allclose(scale_T, torch.where(limit_T > 0, limit_T / LARGEST, 1.0), atol=0)
    kept_TC = decoded(codes_TC) * scale_T[:, None]
    assert torch.isfinite(kept_TC).all()
    clamped_TC = torch.maximum(torch.minimum(x_TC, limit_T[:, None]), -limit_T[:, None])
    assert ((kept_TC - clamped_TC).abs() <= lost(clamped_TC, scale_T) * 1.001).all()


def test_fp8_numbers_are_looked_up_as_torch_casts_them():
    every = torch.arange(256, dtype=torch.uint8).view(16, 16).view(E4M3)
    assert torch.equal(decoded(every).nan_to_num(9e9), every.float().nan_to_num(9e9))


def test_a_huge_activation_spoils_neither_its_token_nor_others():
    """Facts: an outlier of 1e5. Without the cap the ordinary elements of its token vanish."""
    weight, x = normal(0, 32, 64), 0.05 * normal(1, 3, 64)
    spiked = x.clone()
    spiked[1, 5] = 1e5
    weight[:, 5] = 0  # nobody reads the outlier: what is wrong is wrong through the scale alone
    modules = {cap: layer(weight, cap) for cap in (1200.0, None)}
    capped, bare = modules[1200.0](spiked), modules[None](spiked)
    assert torch.isfinite(capped).all()
    assert torch.equal(capped[[0, 2]], modules[1200.0](x)[[0, 2]])
    exact = spiked @ weight.t()
    off = lambda y: float((y[1] - exact[1]).norm() / exact[1].norm())
    assert off(capped) < 0.1 < 0.99 < off(bare)


def layer(weight, cap):
    scheme = build("fp8_rowwise", cap=cap)
    return scheme.make_linear(scheme.quantize({"m": weight}, None)["m"])


def test_fp8_takes_feed_forward_matrices_of_inner_layers_only():
    inner = [f"layers.{n}.ffn.{matrix}" for n in (1, 2) for matrix in ("gate_up", "down")]
    assert build("fp8_rowwise").targets(CONFIG) == inner
    assert len(build("fp8_rowwise", skip_ends=False).targets(CONFIG)) == 8
    assert len(build("fp8_rowwise").targets(PRESETS["llama-3.1-405b"])) == 2 * 124


@pytest.fixture
def meta(monkeypatch):
    """Meta's own functions, which import their kernels though packing needs none."""
    for name in ("fbgemm_gpu", "fbgemm_gpu.experimental", "fbgemm_gpu.experimental.gen_ai"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    yield importlib.import_module("llama_models.quantize_impls")
    sys.modules.pop("llama_models.quantize_impls")


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
def test_int4_is_metas_bit_for_bit(meta, size):
    weight = normal(3, 24, 256) * size
    parts = build("int4").quantize({"m": weight}, None)["m"]
    codes, scale = meta.int4_row_quantize(weight)
    assert torch.equal(parts["codes"].view(torch.int8), meta.pack_int4(codes))
    assert torch.equal(parts["scale"], scale)
    assert torch.equal(unpack(meta.pack_int4(codes).view(torch.uint8)), codes)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_int4_codes_survive_packing(seed):
    codes = torch.randint(-8, 8, (3, 14), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack(pack(codes)), codes)
    assert pack(torch.tensor([[1, -2]], dtype=torch.int8)).tolist() == [[0xE1]]


@given(SEEDS, st.sampled_from([1e-5, 1.0, 1e20]))
@settings(max_examples=20, deadline=None)
def test_int4_errs_by_half_a_step_but_for_what_is_clipped(seed, size):
    weight, scheme = normal(seed, 4, 64) * size, build("int4", group=32)
    parts = scheme.quantize({"m": weight}, None)["m"]
    step = weight.unflatten(1, (2, 32)).abs().amax(-1).clamp(min=1e-6) / 8
    step = step.repeat_interleave(32, 1)
    error = scheme.dequantize(parts) - weight
    assert (error.abs() <= torch.where(weight > 7.5 * step, step * 1.001, step * 0.501)).all()


def test_int4_refuses_columns_that_are_no_whole_number_of_groups():
    config = ModelConfig(576, 2, 9, 3, 1536, 61)
    with pytest.raises(ConfigError, match=r"layers\.\*\.attention\.qkv: 576 columns.*`group`.*such as 96") as found:
        build("int4").targets(config)
    assert len(found.value.problems) == 3  # 1536 columns divide
    assert len(build("int4", group=96).targets(config)) == 8


@given(SEEDS, st.integers(1, 20), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=20, deadline=None)
def test_int8_dynamic_sums_whole_numbers(seed, tokens, dtype):
    scheme = build("int8_dynamic")
    weight, x = normal(seed, 24, 40), normal(seed + 1, tokens, 40).to(dtype)
    parts = scheme.quantize({"m": weight}, None)["m"]
    codes, scale = int8_rows(x)
    whole = codes.long() @ parts["codes"].long().t()
    found = scheme.make_linear(parts)(x)
    assert found.dtype == dtype
    expected = whole.double() * scale[:, None].double() * parts["scale"].double()
    assert torch.allclose(found.double(), expected, rtol=1e-6 if dtype == torch.float32 else 2**-8)
    assert (codes.float() * scale[:, None] - x.float()).abs().max() <= 0.501 * scale.max()


def test_int8_dynamic_says_where_it_computes():
    assert build("int8_dynamic").supports("cpu") == ()
    assert "`int8` or `fp8_rowwise` on cuda" in str(build("int8_dynamic").supports("cuda")[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["fp8_rowwise", "int4", "int8", "int8_dynamic"])
def test_a_model_of_every_scheme_is_kept_and_answers(name, dtype, tmp_path):
    model, scheme = init_weights(Transformer(CONFIG), 0), build(name)
    quantize_model(model, scheme)
    save_quantized(model, tmp_path, name, scheme)
    loaded = load_model(tmp_path, dtype=dtype)
    ((answer,),) = Engine(loaded).generate([[1, 2, 3]], Sampling(max_tokens=5, temperature=0.0))
    assert len(answer.ids) == 5
    assert all(math.isfinite(logp) for logp in answer.logps)


def test_fp8_codes_that_are_no_number_are_refused(tmp_path):
    model, scheme = init_weights(Transformer(CONFIG), 0), build("fp8_rowwise")
    quantize_model(model, scheme)
    model.layers["1"].ffn.down.codes.view(torch.uint8)[3, 4] = 0x7F
    with pytest.raises(CheckpointError, match="L3-CKP-010"):
        save_quantized(model, tmp_path, "fp8_rowwise", scheme)
