"""`fp8_rowwise`: weights and inputs of feed-forward matrices in FP8 (E4M3), as the paper serves 405B (6.2) and Meta's
code does it (llama-models, quantize_impls.py and llama3/quantization/loader.py).

    y = (qx qW') * scale_x * scale_W    qW = W / scale_W,  scale_W = max |row| / 448
                                        qx = x / scale_x,  scale_x = min(max |x|, cap) / 448 of each token

Gate, up and down matrices only, none of the first and the last layer. The cap keeps one huge element of a token (dates
make such) from raising the scale until the others vanish: what is larger saturates instead. The paper calls 1200 an
upper bound of the scaling factor; in the code it bounds the row's maximum.

On a GPU that multiplies FP8 the inputs are quantized by one kernel of ours, and products of few tokens computed by
another (fp8_kernels.py), if both give there what is defined here; products of many tokens are torch's.

E4M3 has 3 bits of mantissa: an element that is not tiny keeps its value within 2^-4 of itself. It has no infinity, and
what is too large becomes NaN in some versions of torch, so all is clamped before it is cast.

Legend: T tokens, R rows, C columns of the matrix.
"""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of E4M3."""
CLOSE = 2e-2
"""How far a kernel's product may be from the definition's on the problem that tries it, relative to the largest result:
bfloat16 rounds."""


class Fp8Rowwise:
    """The scheme (`llama3.checkpoints.scheme.QuantizationScheme`). It needs no calibration."""

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
        if not _has_fp8(x_TC.device, self.codes.shape):
            return emulated(*fp8_rows(x_TC, self.cap), self.codes, self.scale).to(x_TC.dtype)
        if not _has_kernels(x_TC.device, x_TC.dtype):
            return scaled_mm(*fp8_rows(x_TC, self.cap), self.codes, self.scale).to(x_TC.dtype)
        from llama3_plugins.quantization import fp8_kernels  # it imports Triton, which takes a second

        codes_TC, scale_T = fp8_kernels.quantize_rows(x_TC.contiguous(), self.cap)
        if len(x_TC) <= fp8_kernels.FEW_TOKENS:
            return fp8_kernels.multiply_few(codes_TC, scale_T, self.codes, self.scale, x_TC.dtype)
        return scaled_mm(codes_TC, scale_T, self.codes, self.scale).to(x_TC.dtype)


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


@cache
def _has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether our kernels compute there what `fp8_rows` and `emulated` define; they are tried once."""
    generator = torch.Generator().manual_seed(0)
    x_TC, w_RC = (torch.randn(rows, 96, generator=generator).to(device, dtype) for rows in (3, 80))
    codes_RC, scale_R = fp8_rows(w_RC)
    codes_TC, scale_T = fp8_rows(x_TC)
    expected_TR = emulated(codes_TC, scale_T, codes_RC, scale_R)
    try:
        from llama3_plugins.quantization import fp8_kernels

        found_TC, found_T = fp8_kernels.quantize_rows(x_TC, math.inf)
        found_TR = fp8_kernels.multiply_few(found_TC, found_T, codes_RC, scale_R, dtype).float()
    except Exception as error:  # whatever the library raises, torch's own operations remain
        log.warning("FP8 is slower on this GPU, its kernels do not work: %s: %s", type(error).__name__, error)
        return False
    off = float((found_TR - expected_TR).abs().max() / expected_TR.abs().max())
    if not off <= CLOSE:
        log.warning("FP8 is slower on this GPU, its kernels compute something else: %.2g off", off)
    return off <= CLOSE
