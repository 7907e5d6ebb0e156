"""The Rust core's kernels for a few rows against torch, and where the model uses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from llama3 import _core
from llama3.inference.sampling import summary
from llama3.model import ops
from llama3.model.ops import FEW_ROWS, Linear, as_array, rms_norm, rotate
from llama3.plugins.registry import discover

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(not _core.HAS_SIMD, reason="the kernels are not used on this processor")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that ran."""
    names: list[str] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            if name != "HAS_SIMD":
                names.append(name)
            return getattr(_core, name)

    monkeypatch.setattr(ops, "_core", Watched())
    return names


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7, 5), (3, 576, 96), (16, 130, 1025)])
def test_products_equal_torch(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    x, weight = random(rows, inputs, dtype=dtype), random(outputs, inputs, dtype=dtype, seed=1)
    y = x.new_empty(rows, outputs)
    _core.multiply(as_array(x), ("float", as_array(weight)), as_array(y))
    assert_close(
        y, F.linear(x.double(), weight.double()).to(dtype), rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-4
    )
    for row in range(rows):
        alone = x.new_empty(1, outputs)
        _core.multiply(as_array(x[row : row + 1]), ("float", as_array(weight)), as_array(alone))
        assert torch.equal(alone[0], y[row]), "a row has the same bits alone"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic", "int4"])
@pytest.mark.parametrize("rows", [1, 13])
def test_coded_matrices_equal_torch(scheme: str, dtype: torch.dtype, rows: int) -> None:
    """The modules' plain forms, which gradients pass, are the oracle."""
    built = discover().build("quantization", scheme, {"group": 32} if scheme == "int4" else {})
    layer = built.make_linear(built.quantize({"w": random(70, 96, seed=1)}, None)["w"])
    x = random(rows, 96, dtype=dtype)
    expected = layer(x)
    with torch.no_grad():
        found = layer(x)
        alone = layer(x[-1:])
    assert_close(
        found, expected, rtol=1e-5 if dtype == torch.float32 else 3e-2, atol=1e-4 if dtype == torch.float32 else 5e-2
    )
    assert torch.equal(alone[0], found[-1]), "a row has the same bits alone"


def test_bfloat16_is_multiplied_in_float32_where_the_cpu_has_no_products_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Linear(96, 50).bfloat16(), random(FEW_ROWS + 8, 96, dtype=torch.bfloat16)
    expected = F.linear(x.double(), layer.weight.double()).to(torch.bfloat16)
    monkeypatch.setattr(ops, "WIDENED", 96 * 7)
    for multiplies, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(ops, "_multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        assert ops.product_dtype(x) == dtype
        with torch.no_grad():
            assert_close(layer(x), expected, rtol=8e-3, atol=1e-3)
    # A product of few outputs may be summed up in another order than one of many: one unit in the last place.
    whole = (x.float() @ layer.weight.float().T).bfloat16()
    assert_close(ops.linear_by_parts(x, layer.weight), whole, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_summed_up(dtype: torch.dtype) -> None:
    scores = random(3, 1000, dtype=dtype) * 5
    scores[1, 7] = scores[1].max()
    with torch.no_grad():
        likeliest, normalizer = summary(scores)
    assert likeliest.tolist() == scores.argmax(-1).tolist()
    assert_close(normalizer, scores.double().logsumexp(-1).float())
    scores[2, 5] = float("nan")
    with torch.no_grad():
        assert not summary(scores)[1][2].isfinite()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_rotation_equal_those_of_training(dtype: torch.dtype, calls: list[str]) -> None:
    x, weight = random(4, 96, dtype=dtype), random(96, dtype=dtype, seed=1)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1.6e-2, "atol": 1e-2}
    expected = rms_norm(x, weight, 1e-5)
    heads = random(4, 2, 5, 16, dtype=dtype)[:, :, :-1]
    angles = random(4, 1, 1, 8, seed=2)
    turned = rotate(heads, angles.cos().to(dtype), angles.sin().to(dtype))
    assert calls == []
    with torch.no_grad():
        assert_close(rms_norm(x, weight, 1e-5), expected, **tolerance)
        assert_close(rotate(heads, angles.cos().to(dtype), angles.sin().to(dtype)), turned, **tolerance)
    assert calls == ["rms_norm", "rotate"]


def test_the_core_is_used_for_few_rows_in_inference_only(calls: list[str]) -> None:
    layer, x = Linear(12, 20), random(3, 12)
    expected = F.linear(x, layer.weight)
    many = random(FEW_ROWS + 1, 12)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer(many)
        layer.double()(x.double())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        layer(x[:, None])
        assert_close(layer(x.T.contiguous().T), expected)
        torch.export.export(layer, (x,))
    assert calls == []
    with torch.inference_mode():
        assert_close(layer(x), expected)
    assert calls == ["multiply"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pages_are_read_as_a_sequence(dtype: torch.dtype) -> None:
    heads, group, channels, size = 2, 3, 24, 4
    q = random(3, heads, group + 1, channels, dtype=dtype)[:, :, :-1]
    keys, values = (random(heads, 9, size, channels, dtype=dtype, seed=seed) for seed in (1, 2))
    table = np.array([[3, 8, 1], [5, 2, 0]], np.int32)
    rows, seen = np.array([0, 1, 0]), np.array([11, 5, 1])
    out = torch.empty(q.shape, dtype=dtype)
    _core.paged_attention(*map(as_array, (q, keys, values)), table, rows, seen, as_array(out))
    for token, (row, length) in enumerate(zip(rows, seen, strict=True)):
        k, v = (x[:, table[row]].flatten(1, 2)[:, :length].double() for x in (keys, values))
        expected = F.scaled_dot_product_attention(q[token].double(), k, v)
        assert_close(out[token], expected.to(dtype), rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-5)


def test_what_does_not_belong_together_is_refused() -> None:
    f = lambda *shape: np.zeros(shape, np.float32)
    i = lambda *shape: np.zeros(shape, np.int8)
    u = lambda *shape: np.zeros(shape, np.uint8)
    table, row, one = np.array([[1, 7]], np.int32), np.array([0]), np.array([1])
    attend = _core.paged_attention
    refused = [
        lambda: _core.multiply(f(2, 3), ("float", f(4, 5)), f(2, 4)),
        lambda: _core.multiply(f(2, 3), ("float", f(4, 3)), f(2, 5)),
        lambda: _core.multiply(f(2, 3), ("int8", i(4, 3), f(5)), f(2, 4)),
        lambda: _core.multiply(f(2, 3), ("int8_dynamic", i(4, 5), f(4)), f(2, 4)),
        lambda: _core.multiply(f(2, 8), ("int4", u(4, 4), f(3, 4)), f(2, 4)),
        lambda: _core.multiply(f(2, 8), ("int4", u(4, 4), f(2, 5)), f(2, 4)),
        lambda: _core.multiply(f(2, 8), ("int4", u(4, 4), f(0, 4)), f(2, 4)),
        lambda: _core.rms_norm(f(2, 3), f(4), 0.0, f(2, 3)),
        lambda: _core.rotate(f(1, 1, 1, 4), f(1, 3), f(1, 2), f(1, 1, 1, 4)),
        lambda: attend(f(1, 1, 1, 4), f(1, 3, 2, 4), f(1, 3, 2, 4), table, row + 1, one, f(1, 1, 1, 4)),
        lambda: attend(f(1, 1, 1, 4), f(1, 3, 2, 4), f(1, 3, 2, 4), table, row, one * 3, f(1, 1, 1, 4)),
        lambda: attend(f(1, 1, 1, 4), f(1, 3, 2, 4), f(1, 3, 2, 4), table, row, one * 0, f(1, 1, 1, 4)),
        lambda: attend(f(1, 1, 1, 4), f(1, 3, 2, 4), f(1, 3, 2, 4), table, row, one * 5, f(1, 1, 1, 4)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="belong together"):
            call()
    with pytest.raises(TypeError):
        _core.multiply(f(2, 3), ("float", f(4, 3).astype(np.float64)), f(2, 4))
    with pytest.raises(ValueError, match="no form"):
        _core.multiply(f(2, 3), ("int3", f(4, 3)), f(2, 4))
