"""What the schemes share: the matrices of a layer, and one scale per row.

Legend: R rows, C columns of a matrix; T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from llama3.quantization import ModelConfig

FFN = ("ffn.gate_up", "ffn.down")
MATRICES = ("attention.qkv", "attention.out", *FFN)
"""Of a layer. Embedding, output matrix and norms are never quantized (the tied output matrix is the embedding)."""


def in_layers(layers: Iterable[int], matrices: Iterable[str] = MATRICES) -> list[str]:
    """The names of these matrices of these layers."""
    return [f"layers.{layer}.{matrix}" for layer in layers for matrix in matrices]


def columns_of(config: ModelConfig, matrix: str) -> int:
    """How many columns a matrix of a layer has."""
    return {"attention.out": config.n_heads * config.head_dim, "ffn.down": config.ffn_dim}.get(matrix, config.dim)


def row_scale(x_RC: Tensor, largest_code: float, cap: float = math.inf) -> Tensor:
    """float32[R]: what the largest element of each row is divided by to become `largest_code`; 1 where all are zero.

    cap: the largest element counts as this at most; larger ones are for the caller to saturate
    """
    largest_R = x_RC.abs().amax(dim=1).float().clamp(max=cap)
    tiny = torch.finfo(torch.float32).tiny  # a quotient that is no ordinary number would not scale back
    return torch.where(largest_R > 0, (largest_R / largest_code).clamp(min=tiny), 1.0)


def int8_rows(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric: codes int8[R, C] from -127 to 127 and float32[R], whose product is near `x_RC`."""
    scale_R = row_scale(x_RC, 127)
    return (x_RC.float() / scale_R[:, None]).round().clamp(-127, 127).to(torch.int8), scale_R


class CodedRows(nn.Module):
    """What a layer keeps of a matrix: codes [R, C] of `dtype`, and a scale for each row."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        require_parts(codes, scale, dtype)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)


def require_parts(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError where these are not codes of `dtype` with a scale for each row."""
    if codes.dtype != dtype or codes.dim() != 2 or scale.shape != codes.shape[:1]:
        raise ValueError(
            f"codes {codes.dtype} {tuple(codes.shape)} and scale {tuple(scale.shape)} do not belong together"
        )
