"""`int4`: weight-only, symmetric, one scale for every 128 columns of a row, in the byte layout of Meta's code
(llama-models, quantize_impls.py), bit for bit.

    codes = clamp(round(W / scale), -8, 7),  scale = max(max |group|, 1e-6) / 8

Two codes to a byte, each in two's complement, the even column in the low half; scales are stored [groups, rows]. The
largest element of a group is clipped by an eighth where it is positive: that is the price of Meta's layout.

Legend: R rows, C columns, B bytes of a row (C / 2), N groups of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.errors import ConfigError, Problem
from llama3.quantization import Matrix, ModelConfig, Parts, is_for_core, multiply, product_dtype
from llama3_plugins.quantization.matrices import MATRICES, columns_of, in_layers
from llama3_plugins.quantization.options import Int4Options

UNEVEN = ConfigError.declare(
    "L3-QNT-007",
    "{columns} columns are no whole number of groups of {group}",
    fix="{advice}",
)

SMALLEST = 1e-6
"""What the largest element of a group counts as at least."""


class Int4:
    """The scheme (`llama3.checkpoints.scheme.QuantizationScheme`). It needs no calibration."""

    def __init__(self, options: Int4Options) -> None:
        self.group = options.group

    def supports(self, device: str) -> Sequence[Problem]:
        return ()

    def targets(self, config: ModelConfig) -> Sequence[str]:
        """Raises ConfigError where the columns of a matrix do not divide into groups: none is left out unsaid."""
        columns = {matrix: columns_of(config, matrix) for matrix in MATRICES}
        advice = _advice(math.gcd(*columns.values()), self.group)
        problems = [
            UNEVEN.problem(f"layers.*.{matrix}", columns=count, group=self.group, advice=advice)
            for matrix, count in columns.items()
            if count % self.group
        ]
        if problems:
            raise ConfigError.of(problems)
        return in_layers(range(config.n_layers))

    def quantize(self, weights: Mapping[str, Tensor], calibration: Mapping[str, Tensor] | None) -> dict[str, Parts]:
        return {name: self._parts(weight.float()) for name, weight in weights.items()}

    def _parts(self, weight_RC: Tensor) -> Parts:
        groups = weight_RC.unflatten(1, (-1, self.group))
        scale_RN = groups.abs().amax(dim=-1).clamp(min=SMALLEST) / 8
        codes_RC = (groups / scale_RN[..., None]).round().clamp(-8, 7).to(torch.int8).flatten(1)
        return {"codes": pack(codes_RC), "scale": scale_RN.t().contiguous()}

    def make_linear(self, parts: Parts) -> nn.Module:
        return Int4Linear(parts["codes"], parts["scale"])

    def dequantize(self, parts: Parts) -> Tensor:
        return weight_of(parts["codes"], parts["scale"])

    def metadata(self) -> dict[str, Any]:
        return {"group": self.group}


def pack(codes_RC: Tensor) -> Tensor:
    """uint8[R, B] of int8 codes from -8 to 7."""
    nibbles = codes_RC.view(torch.uint8) & 0xF
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack(packed_RB: Tensor) -> Tensor:
    """The inverse of `pack`, int8[R, C]."""
    nibbles = torch.stack([packed_RB & 0xF, packed_RB >> 4], dim=-1).flatten(1)
    return (nibbles ^ 8).view(torch.int8) - 8


def weight_of(packed_RB: Tensor, scale_NR: Tensor) -> Tensor:
    """The weight that codes and scales stand for, float32[R, C]."""
    groups = unpack(packed_RB).unflatten(1, (len(scale_NR), -1))
    return (groups * scale_NR.t()[..., None]).flatten(1)


class Int4Linear(nn.Module):
    """x W' with W unpacked on the way."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__()
        fitting = codes.dim() == scale.dim() == 2 and scale.shape[1] == len(codes)
        if codes.dtype != torch.uint8 or not fitting or 2 * codes.shape[1] % len(scale):
            raise ValueError(
                f"codes {codes.dtype} {tuple(codes.shape)} and scale {tuple(scale.shape)} do not belong together"
            )
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        if is_for_core(x) and x.dim() == 2:
            return multiply(x, self.matrix(), len(self.codes))
        dtype = product_dtype(x)
        return F.linear(x.to(dtype), weight_of(self.codes, self.scale).to(dtype)).to(x.dtype)

    def matrix(self) -> Matrix:
        """As the core takes it."""
        return ("int4", self.codes.numpy(), self.scale.float().numpy())


def _advice(columns: int, group: int) -> str:
    """The largest even divisor up to `group` of `columns`, the most that all matrices have in common; or what else
    to do."""
    divisor = next((size for size in range(group, 1, -1) if columns % size == 0 and size % 2 == 0), None)
    if divisor is None:
        return "use another scheme, such as int8: no even number of columns divides them"
    return f"set the option `group` to a divisor, such as {divisor}"
