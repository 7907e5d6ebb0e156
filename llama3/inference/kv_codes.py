"""Keys and values as codes of one byte, with a float32 scale for each token and head: half to a quarter of the memory.

int8: the largest channel of a row becomes 127, the others are rounded to whole steps. fp8: it becomes 448, the largest
number of float8_e4m3fn, and the others are rounded to 4 significant bits. Codes of fp8 are kept as their bits (uint8),
since few operations know the type.

Legend: C channels of a head; ... any axes before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from llama3.config.serving import KvDtype
from llama3.errors import ConfigError

NO_TYPE = ConfigError.declare("L3-GEN-022", "{name!r} is no type of a KV cache", fix="give one of: {types}")


@dataclass(frozen=True)
class KvCodes:
    """A kind of codes: what they are stored as, and the largest number that one of them stands for at scale 1."""

    storage: torch.dtype
    largest: float

    def quantize(self, x_C: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [..., C] and scales [...] of numbers; those of a row of zeros have scale 1."""
        x_C = x_C.float()
        scale = x_C.abs().amax(-1) / self.largest
        scale = torch.where(scale == 0, 1.0, scale)
        x_C = x_C / scale[..., None]
        if self.storage == torch.int8:
            return x_C.round().to(torch.int8), scale
        return x_C.clamp(-self.largest, self.largest).to(torch.float8_e4m3fn).view(torch.uint8), scale

    def dequantize(self, codes_C: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """The numbers that codes stand for, in `dtype`."""
        numbers_C = codes_C if self.storage == torch.int8 else codes_C.view(torch.float8_e4m3fn)
        return (numbers_C.float() * scale[..., None]).to(dtype)


_KINDS = {"int8": KvCodes(torch.int8, 127.0), "fp8": KvCodes(torch.uint8, 448.0)}


def codes_of(name: str) -> KvCodes | None:
    """The codes of a cache of this type; None for "auto", a cache of the precision of computation. Raises ConfigError
    for another name."""
    if name not in get_args(KvDtype):
        raise NO_TYPE("kv_dtype", name=name, types=", ".join(get_args(KvDtype)))
    return _KINDS.get(name)
