"""Elementwise operations of the transformer with their backward passes written out.

On the CPU eager autograd runs these as a dozen passes over memory each; written out they are a few. The formulas are
tested against plain torch operations and their autograd.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 and returned in x's dtype, or in
    autocast's dtype where it is on (the next operation is a matrix product)."""
    device = x_TD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
    if torch.compiler.is_exporting():  # the one operator, which other runtimes have too
        return F.rms_norm(x_TD.float(), x_TD.shape[-1:], weight_D.float(), eps).to(dtype)
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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + C/2) of x [..., C] by the angles whose cos and sin [..., C/2] are given."""
    if torch.compiler.is_exporting():  # nothing is written into a part of a tensor
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
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
