"""`fp8_rowwise`: weights and inputs of feed-forward matrices in FP8 (E4M3), as the paper serves 405B (6.2) and Meta's
code does it (llama-models, quantize_impls.py and llama3/quantization/loader.py).

    y = (qx qW') * scale_x * scale_W    qW = W / scale_W,  scale_W = max |row| / 448
                                        qx = x / scale_x,  scale_x = min(max |x|, cap) / 448 of each token

Gate, up and down matrices only, none of the first and the last layer. The cap keeps one huge element of a token (dates
make such) from raising the scale until the others vanish: what is larger saturates instead. The paper calls 1200 an
upper bound of the scaling factor; in the code it bounds the row's maximum.

E4M3 has 3 bits of mantissa: an element that is not tiny keeps its value within 2^-4 of itself. It has no infinity, and
what is too large becomes NaN in some versions of torch, so all is clamped before it is cast.

Legend: T tokens, R rows, C columns of the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama3.errors import Problem
from llama3.quantization import ModelConfig, Parts
from llama3_plugins.quantization.matrices import FFN, CodedRows, in_layers, row_scale
from llama3_plugins.quantization.options import Fp8RowwiseOptions

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of E4M3."""


class Fp8Rowwise:
    """The scheme (`llama3.checkpoints.quantized.QuantizationScheme`). It needs no calibration."""

    def __init__(self, options: Fp8RowwiseOptions) -> None:
        self.options = options

    def supports(self, device: str) -> Sequence[Problem]:
        return ()

    def targets(self, config: ModelConfig) -> Sequence[str]:
        ends = 1 if self.options.skip_ends else 0
        return in_layers(range(ends, config.n_layers - ends), FFN)

    def quantize(self, weights: Mapping[str, Tensor], calibration: Mapping[str, Tensor] | None) -> dict[str, Parts]:
        rows = {name: fp8_rows(weight) for name, weight in weights.items()}
        return {name: {"codes": codes, "scale": scale} for name, (codes, scale) in rows.items()}

    def make_linear(self, parts: Parts) -> nn.Module:
        return Fp8RowwiseLinear(
            parts["codes"], parts["scale"], cap=math.inf if self.options.cap is None else self.options.cap
        )

    def dequantize(self, parts: Parts) -> Tensor:
        return parts["codes"].float() * parts["scale"][:, None]

    def metadata(self) -> dict[str, Any]:
        return self.options.model_dump()


def fp8_rows(x_RC: Tensor, cap: float = math.inf) -> tuple[Tensor, Tensor]:
    """Codes in E4M3 [R, C] and float32[R], whose product is near `x_RC`; elements beyond `cap` saturate."""
    scale_R = row_scale(x_RC, LARGEST, cap)
    return (x_RC.float() / scale_R[:, None]).clamp(-LARGEST, LARGEST).to(E4M3), scale_R


class Fp8RowwiseLinear(CodedRows):
    """x W' of rows of tokens, both in FP8."""

    def __init__(self, codes: Tensor, scale: Tensor, cap: float) -> None:
        super().__init__(codes, scale, E4M3)
        self.cap = cap

    def forward(self, x_TC: Tensor) -> Tensor:
        codes_TC, scale_T = fp8_rows(x_TC, self.cap)
        product = scaled_mm if _has_fp8(x_TC.device, self.codes.shape) else emulated
        return product(codes_TC, scale_T, self.codes, self.scale).to(x_TC.dtype)


def scaled_mm(codes_TC: Tensor, scale_T: Tensor, codes_RC: Tensor, scale_R: Tensor) -> Tensor:
    """The product by the device's own FP8 instructions, bfloat16[T, R]."""
    return torch._scaled_mm(
        codes_TC,
        codes_RC.t(),
        scale_a=scale_T[:, None],
        scale_b=scale_R[None],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def emulated(codes_TC: Tensor, scale_T: Tensor, codes_RC: Tensor, scale_R: Tensor) -> Tensor:
    """The same product by float32's, which holds every code exactly, float32[T, R]."""
    return F.linear(decoded(codes_TC), decoded(codes_RC)) * scale_T[:, None] * scale_R


def decoded(codes: Tensor) -> Tensor:
    """The numbers of E4M3 in float32, looked up: four times as fast on a CPU as torch's cast."""
    bytes_ = codes.view(torch.uint8).flatten().int()
    return _numbers(codes.device).index_select(0, bytes_).view(codes.shape)


@cache
def _numbers(device: torch.device) -> Tensor:
    """The 256 numbers of E4M3 by their bytes."""
    return torch.arange(256, dtype=torch.uint8).view(E4M3).float().to(device)


def _has_fp8(device: torch.device, shape: torch.Size) -> bool:
    """Whether a device multiplies FP8 itself: NVIDIA's do from Ada and Hopper on, by multiples of 16."""
    if device.type != "cuda" or any(size % 16 for size in shape):
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)
