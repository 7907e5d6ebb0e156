"""The Rust core's kernels for a few rows against torch, and where the model uses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from llama3 import _core
from llama3.model import ops
from llama3.model.ops import FEW_ROWS, Linear, as_array, rms_norm, rotate

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
    _core.linear(as_array(x), as_array(weight), as_array(y))
    assert_close(
        y, F.linear(x.double(), weight.double()).to(dtype), rtol=1e-5 if dtype == torch.float32 else 8e-3, atol=1e-4
    )
    for row in range(rows):
        alone = x.new_empty(1, outputs)
        _core.linear(as_array(x[row : row + 1]), as_array(weight), as_array(alone))
        assert torch.equal(alone[0], y[row]), "a row has the same bits alone"


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
    many = random(FEW_ROWS[torch.float32] + 1, 12)
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
    assert calls == ["linear"]


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
    table, row, one = np.array([[1, 7]], np.int32), np.array([0]), np.array([1])
    attend = _core.paged_attention
    refused = [
        lambda: _core.linear(f(2, 3), f(4, 5), f(2, 4)),
        lambda: _core.linear(f(2, 3), f(4, 3), f(2, 5)),
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
        _core.linear(f(2, 3), f(4, 3).astype(np.float64), f(2, 4))
