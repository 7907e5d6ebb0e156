"""Operations whose backward pass is written out, against plain torch operations and autograd's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llama3.model.ops import rms_norm, rotate, swiglu


def swiglu_of_parts(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.unbind(-2)
    return F.silu(gate) * up


def both(operation, plain, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Values and gradients of either."""
    results = []
    for function in (operation, plain):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        results.append((out, torch.autograd.grad((out * out.detach().cos()).sum(), leaf)[0]))
    return list(zip(*results, strict=True))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 20), st.integers(0, 99))
def test_swiglu_is_that_of_its_parts(tokens, groups, channels, seed):
    x = torch.randn(tokens, groups, 2, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for ours, theirs in both(swiglu, swiglu_of_parts, x):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_cut_from_a_larger_tensor_is_no_other(dtype):
    x = torch.randn(40, 3, 2, 16, generator=torch.Generator().manual_seed(0)).to(dtype)[::2]
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    for ours, theirs in both(swiglu, swiglu_of_parts, x):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=tolerance, rtol=tolerance)


def test_norm_and_rotation_are_those_of_torch():
    torch.manual_seed(0)
    x, weight, angle = torch.randn(12, 2, 3, 8), torch.randn(8), torch.randn(12, 1, 1, 4)
    cos, sin = angle.cos(), angle.sin()

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    for operation, plain in (
        (lambda x: rms_norm(x, weight, 1e-5), lambda x: F.rms_norm(x, (8,), weight, 1e-5)),
        (lambda x: rotate(x, cos, sin), turned),
    ):
        for ours, theirs in both(operation, plain, x):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
