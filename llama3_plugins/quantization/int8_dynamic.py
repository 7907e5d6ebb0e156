"""`int8_dynamic`: weights as `int8` keeps them, and inputs in int8 too, each token scaled by its own largest element.

    y = (qx qW') * scale_x * scale_W,  qx = round(x / scale_x),  scale_x = max |x| / 127 of each token

The product is one of whole numbers, summed exactly in int32, for which CPUs have instructions (measured beside float32,
2048 x 2048, one thread with AVX-512: 0.11 against 0.51 ms at one token, 1.1 against 2.8 at 16, 13 against 100 at 256).
Of few tokens the Rust core computes it, of more torch, whose sums of whole numbers are the same. The output matrix is
never quantized, so neither is what meets it.

Legend: T tokens, R rows, C columns of the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llama3.errors import PluginError, Problem
from llama3.quantization import Matrix, Parts, is_for_core, multiply
from llama3_plugins.quantization.int8 import Int8
from llama3_plugins.quantization.matrices import CodedRows, int8_rows

NOT_HERE = PluginError.declare(
    "L3-QNT-006", "`int8_dynamic` computes on the CPU only", fix="use `int8` or `fp8_rowwise` on {device}"
)


class Int8Dynamic(Int8):
    """The scheme: `Int8` but for the product."""

    def supports(self, device: str) -> Sequence[Problem]:
        return () if device == "cpu" else [NOT_HERE.problem(device, device=device)]

    def make_linear(self, parts: Parts) -> nn.Module:
        return Int8DynamicLinear(parts["codes"], parts["scale"])


class Int8DynamicLinear(CodedRows):
    """x W' of rows of tokens, both in int8."""

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__(codes, scale, torch.int8)

    def forward(self, x_TC: Tensor) -> Tensor:
        if is_for_core(x_TC):
            return multiply(x_TC, self.matrix(), len(self.codes))
        codes_TC, scale_T = int8_rows(x_TC)
        product_TR = torch._int_mm(codes_TC, self.codes.t())
        return (product_TR * scale_T[:, None] * self.scale).to(x_TC.dtype)

    def matrix(self) -> Matrix:
        """As the core takes it."""
        return ("int8_dynamic", self.codes.numpy(), self.scale.float().numpy())
