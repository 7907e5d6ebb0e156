"""`int8`: weight-only, symmetric, one scale per output row.

    codes = round(W / scale),  scale = max |row| / 127

A quarter of float32's memory at an error of about half a percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.errors import Problem
from llama3.quantization import Matrix, ModelConfig, Parts, is_for_core, multiply, product_dtype
from llama3_plugins.quantization.matrices import CodedRows, in_layers, int8_rows


class Int8:
    """The scheme (`llama3.checkpoints.scheme.QuantizationScheme`). It has no options and needs no calibration."""

    def supports(self, device: str) -> Sequence[Problem]:
        return ()

    def targets(self, config: ModelConfig) -> Sequence[str]:
        return in_layers(range(config.n_layers))

    def quantize(self, weights: Mapping[str, Tensor], calibration: Mapping[str, Tensor] | None) -> dict[str, Parts]:
        return {name: quantize_rows(weight) for name, weight in weights.items()}

    def make_linear(self, parts: Parts) -> nn.Module:
        return Int8Linear(parts["codes"], parts["scale"])

    def dequantize(self, parts: Parts) -> Tensor:
        return parts["codes"].float() * parts["scale"][:, None]

    def metadata(self) -> dict[str, Any]:
        return {}


def quantize_rows(weight: Tensor) -> Parts:
    """int8 codes [rows, columns] and float32 scale [rows]; a row of zeros gets scale 1."""
    codes, scale = int8_rows(weight)
    return {"codes": codes, "scale": scale}


class Int8Linear(CodedRows):
    """x W' with W in int8. The scale is applied to the product, so that the matrix product sees whole numbers."""

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__(codes, scale, torch.int8)

    def forward(self, x: Tensor) -> Tensor:
        if is_for_core(x) and x.dim() == 2:
            return multiply(x, self.matrix(), len(self.codes))
        dtype = product_dtype(x)
        return (F.linear(x.to(dtype), self.codes.to(dtype)) * self.scale.to(dtype)).to(x.dtype)

    def matrix(self) -> Matrix:
        """As the core takes it."""
        return ("int8", self.codes.numpy(), self.scale.float().numpy())
