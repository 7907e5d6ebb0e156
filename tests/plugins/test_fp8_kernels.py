"""The kernels of `fp8_rowwise` against its definition. Without a GPU they are interpreted, and compiled for GPUs that
are not there."""

from __future__ import annotations

import math

import pytest
import torch
from gpu_compile import output_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_plugins.quantization import fp8_kernels, fp8_rowwise
from llama3_plugins.quantization.fp8_rowwise import Fp8RowwiseLinear, emulated, fp8_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(
    fp8_kernels.triton is None, reason="Triton is not installed (a torch built for CPUs alone comes without it)"
)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@given(st.integers(0, 99), st.sampled_from([1, 16, 40]), st.sampled_from([math.inf, 1200.0, 3.0]))
@settings(max_examples=12)
def test_rows_are_quantized_as_defined(seed, columns, cap):
    sizes = torch.tensor([[1.0], [1e4], [0.0], [1e-40], [1e30]], device=DEVICE)
    x_TC = (normal(seed, 5, columns + 3) * sizes)[:, :columns]  # rows that do not follow each other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fp8_kernels, "INPUT_COLUMNS", 16)
        codes_TC, scale_T = fp8_kernels.quantize_rows(x_TC, cap)
    expected_TC, expected_T = fp8_rows(x_TC, cap)
    assert torch.equal(scale_T, expected_T)
    bytes_apart = (codes_TC.view(torch.uint8).int() - expected_TC.view(torch.uint8).int()).abs()
    # Triton's interpreter rounds the smallest numbers down and drops the carry into the exponent, which is 8 codes; the
    # instruction of a GPU does neither.
    assert int(bytes_apart.max()) <= (0 if DEVICE.type == "cuda" else 8)
    assert (bytes_apart == 0).float().mean() > 0.7


@given(st.integers(0, 99), st.integers(1, 16), st.sampled_from([16, 80, 100]), st.sampled_from([16, 256, 300]))
@settings(max_examples=12)
def test_products_of_few_tokens_are_as_defined(seed, tokens, rows, columns):
    codes_TC, scale_T = fp8_rows(normal(seed, tokens, columns))
    codes_RC, scale_R = fp8_rows(normal(seed + 1, rows, columns))
    found_TR = fp8_kernels.multiply_few(codes_TC, scale_T, codes_RC, scale_R, torch.float32)
    torch.testing.assert_close(found_TR, emulated(codes_TC, scale_T, codes_RC, scale_R), atol=1e-4, rtol=1e-5)
    multiply = lambda codes_TC, scale_T: fp8_kernels.multiply_few(codes_TC, scale_T, codes_RC, scale_R, torch.float32)
    assert torch.equal(multiply(codes_TC[:1], scale_T[:1])[0], found_TR[0]), "a token has the same bits alone"
    others_TC, others_T = fp8_rows(normal(seed + 2, tokens, columns))
    others_TC.view(torch.uint8)[-1], others_T[-1] = codes_TC.view(torch.uint8)[-1], scale_T[-1]
    assert torch.equal(multiply(others_TC, others_T)[-1], found_TR[-1]), "and beside others"
    if DEVICE.type == "cuda":  # the interpreter multiplies by NumPy, where a row's last bits follow its place
        assert torch.equal(multiply(codes_TC[-1:], scale_T[-1:])[0], found_TR[-1]), "and at another place"


@pytest.mark.parametrize("tokens", [1, 16, 17])
def test_a_layer_that_uses_them_gives_what_one_without_them_gives(tokens, monkeypatch):
    monkeypatch.setattr(fp8_rowwise, "CLOSE", 0.2)  # of the interpreter, see above
    fp8_rowwise._has_kernels.cache_clear()
    used = []
    count = lambda name, call: monkeypatch.setattr(
        fp8_kernels, name, lambda *given: (used.append(name), call(*given))[1]
    )
    layer = Fp8RowwiseLinear(*fp8_rows(normal(0, 48, 64)), cap=1200.0)
    x_TC = normal(1, tokens, 64)
    plain = layer(x_TC)
    assert used == []
    monkeypatch.setattr(fp8_rowwise, "_has_fp8", lambda device, shape: True)
    assert fp8_rowwise._has_kernels(DEVICE, torch.float32)
    count("quantize_rows", fp8_kernels.quantize_rows)
    count("multiply_few", fp8_kernels.multiply_few)
    found = layer(x_TC)
    assert used == ["quantize_rows", "multiply_few"][: 1 + (tokens <= 16)]
    assert float((found - plain).norm() / plain.norm()) < 0.1
    fp8_rowwise._has_kernels.cache_clear()


@pytest.mark.parametrize("broken", [lambda *given: 1 / 0, lambda c, s, w, r, dtype: torch.zeros(len(c), len(w))])
def test_kernels_that_compute_something_else_are_not_used(broken, monkeypatch, caplog):
    monkeypatch.setattr(fp8_rowwise, "CLOSE", 0.2)
    fp8_rowwise._has_kernels.cache_clear()
    monkeypatch.setattr(fp8_kernels, "multiply_few", broken)
    assert not fp8_rowwise._has_kernels(torch.device("cpu"), torch.float32)
    assert "FP8 is slower on this GPU" in caplog.text
    fp8_rowwise._has_kernels.cache_clear()


COMPILES = """
from llama3_plugins.quantization import fp8_kernels
codes = torch.empty(4096, 14336, dtype=torch.float8_e4m3fn, device="cpu")
for capability in (89, 90, 100):
    few, scale = fp8_kernels.quantize_rows(torch.empty(4, 14336, dtype=torch.bfloat16), 1200.0)
    fp8_kernels.multiply_few(few, scale, codes, torch.empty(4096), torch.bfloat16)
print([len(kernel.asm["cubin"]) > 0 for kernel in made])
"""


def test_the_kernels_compile_for_gpus_that_are_not_here(tmp_path):
    assert output_of(COMPILES, tmp_path) == str([True] * 6)
