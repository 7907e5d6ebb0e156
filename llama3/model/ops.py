"""Operations of the transformer: elementwise ones with their backward passes written out, and what a few rows need.

On the CPU eager autograd runs the former as a dozen passes over memory each; written out they are a few. The formulas
are tested against plain torch operations and their autograd.

Decoding on the CPU has a few rows only. The Rust core computes them (`_in_core`): it reads a weight as fast as memory
gives it, and its sums have one order, so that an answer has the same bits alone and beside others.
"""

from __future__ import annotations

import math
import platform
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3 import _core

DTYPES = (torch.float32, torch.bfloat16)
"""What the core computes with."""
FEW_ROWS = 32
"""Up to so many rows the core computes: as many as the answers that a server runs at once, so that none of them depends
on the others (measured on one thread with AVX-512, `make bench-serving`)."""

WIDENED = 1 << 24
"""Numbers of a weight that are cast to another type at once."""

Matrix = tuple[Any, ...]
"""A weight as the core takes it: its form and its arrays.

("float", w [R, C]): float32, or bfloat16 as its bits
("int8", codes [R, C], scales [R]): int8 times a float32 for each row
("int8_dynamic", codes, scales): the same, and every row that it meets becomes int8 with a scale too
("int4", codes uint8[R, C / 2], scales [N, R]): four bits, the even column in the low half, times a float32 for each of
the N equal groups of a row's columns
"""


class Linear(nn.Linear):
    """`nn.Linear` without a bias that is fast for a few rows in inference."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x_TI: Tensor) -> Tensor:
        if _in_core(x_TI, self.weight) and x_TI.dim() == 2 and x_TI.is_contiguous():
            return multiply(x_TI, self.matrix(), len(self.weight))
        if is_for_core(x_TI, math.inf) and product_dtype(x_TI) != self.weight.dtype == x_TI.dtype:
            return linear_by_parts(x_TI, self.weight)
        return F.linear(x_TI, self.weight)

    def matrix(self) -> Matrix:
        """The weight, where it lies."""
        return ("float", weight_array(self.weight))


def multiply(x_TC: Tensor, matrix: Matrix, rows: int) -> Tensor:
    """x W' of a matrix with so many rows, computed by the core. `is_for_core` says whether it can."""
    y_TR = x_TC.new_empty(len(x_TC), rows)
    _core.multiply(as_array(x_TC.contiguous()), matrix, as_array(y_TR))
    return y_TR


def product_dtype(x: Tensor) -> torch.dtype:
    """What rows like x are multiplied in: float32 where a CPU has no products of bfloat16, of which torch then makes a
    third of the speed (measured with AVX-512, 256 rows: 28 against 90 GFLOP/s, the casts included)."""
    emulated = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not _multiplies_bfloat16()
    return torch.float32 if emulated else x.dtype


@cache
def _multiplies_bfloat16() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return True  # nothing was measured there
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def linear_by_parts(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """x W' multiplied in `product_dtype`, without a copy of the whole weight in it."""
    dtype = product_dtype(x_TI)
    wide_TI = x_TI.to(dtype)
    parts = weight_OI.split(max(1, WIDENED // weight_OI.shape[1]))
    return torch.cat([F.linear(wide_TI, part.to(dtype)).to(x_TI.dtype) for part in parts], dim=-1)


def is_for_core(x: Tensor, most_rows: float = FEW_ROWS) -> bool:
    """Whether the core computes an operation of x: in inference, with a plain tensor of `most_rows` at most on the
    CPU."""
    return (
        not torch.compiler.is_compiling()  # first: in a trace the number of rows is a symbol
        and not torch.is_grad_enabled()
        and is_of_core(x)
        and len(x) <= most_rows
        and type(x) is Tensor
        and not torch.is_autocast_enabled("cpu")
    )


def _in_core(x: Tensor, weight: Tensor) -> bool:
    """Whether the core computes this operation of a few rows and a weight."""
    return (
        is_for_core(x) and weight.dtype == x.dtype and type(weight) in (Tensor, nn.Parameter) and weight.is_contiguous()
    )


def is_of_core(x: Tensor) -> bool:
    """Whether the core can compute with a tensor like this on this machine, and fast."""
    return _core.HAS_SIMD and x.device.type == "cpu" and x.dtype in DTYPES


def weight_array(weight: Tensor) -> npt.NDArray[np.generic]:
    """As `as_array`, by DLPack: `Tensor.numpy` forbids for good that storage is resized, which FSDP does to weights."""
    weight = weight.detach()
    array: npt.NDArray[np.generic] = np.from_dlpack(
        weight.view(torch.uint16) if weight.dtype == torch.bfloat16 else weight
    )
    return array


def as_array(x: Tensor) -> npt.NDArray[np.generic]:
    """The memory of a tensor as the core takes it: bfloat16, which NumPy does not know, as its bits."""
    if x.requires_grad:
        x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 and returned in x's dtype, or in
    autocast's dtype where it is on (the next operation is a matrix product)."""
    device = x_TD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
    if torch.compiler.is_compiling():  # the one operator, which other runtimes have too and a compiler knows
        return F.rms_norm(x_TD.float(), x_TD.shape[-1:], weight_D.float(), eps).to(dtype)
    if _in_core(x_TD, weight_D) and x_TD.dim() == 2 and x_TD.is_contiguous():
        out_TD = torch.empty_like(x_TD)
        _core.rms_norm(as_array(x_TD), weight_array(weight_D), eps, as_array(out_TD))
        return out_TD
    if device != "cpu":
        return F.rms_norm(x_TD, x_TD.shape[-1:], weight_D.to(x_TD.dtype), eps).to(dtype)
    return _RMSNorm.apply(x_TD, weight_D, eps, dtype)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x32_TD = x_TD.float()
        inverse_T1 = (
            torch.linalg.vector_norm(x32_TD, dim=-1, keepdim=True).square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        )
        ctx.save_for_backward(x_TD, weight_D, inverse_T1)
        return (x32_TD * inverse_T1).mul_(weight_D).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_TD, weight_D, inverse_T1 = ctx.saved_tensors
        normal_TD = x_TD.float() * inverse_T1
        grad_TD = grads[0].float()
        product_TD = grad_TD * normal_TD
        grad_weight_D = product_TD.flatten(0, -2).sum(0)
        mean_T1 = (product_TD @ weight_D.float()).div_(x_TD.shape[-1])[..., None]
        grad_x_TD = torch.addcmul(grad_TD * weight_D, normal_TD, mean_T1, value=-1).mul_(inverse_T1)
        return grad_x_TD.to(x_TD.dtype), grad_weight_D.to(weight_D.dtype), None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of gate and up side by side [..., 2, F], which is all that is kept for the backward pass."""
    if gate_up.device.type != "cpu" or torch.compiler.is_compiling():
        gate, up = gate_up.unbind(-2)
        return F.silu(gate) * up
    return _SwiGLU.apply(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.unbind(-2)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.unbind(-2)
        grad = torch.empty_like(gate_up)
        grad_gate, grad_up = grad.unbind(-2)
        torch.mul(grads[0], F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=grad_gate)
        return grad


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + C/2) of x [..., C] by the angles whose cos and sin [..., C/2] are given."""
    if torch.compiler.is_compiling():  # nothing is written into a part of a tensor
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    if _in_core(x, cos) and x.dim() == 4 and len(cos) == len(x):
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _core.rotate(as_array(x), as_array(cos.flatten(1)), as_array(sin.flatten(1)), as_array(out))
        return out
    return _Rotate.apply(x, cos, sin)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return out
