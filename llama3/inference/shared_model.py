"""A model whose weights lie in memory that several processes map: whoever writes them has handed them over.

The memory is a file without a name: it is there as long as a process has it open, whatever kills the others.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from llama3.model.build import assign, empty_model
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

IN_MEMORY = Path("/dev/shm")
"""Where files are memory, on Linux; elsewhere the system's cache of files is."""
ALIGNED = 64
"""Bytes at whose multiples tensors begin: a cache line."""


class SharedModel:
    """A model without scalar heads, of one dtype. `bytes` are its weights, `descriptor` the open file that holds them.

    The one that makes it writes it; `of` maps it in another process, which has been given the descriptor.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, descriptor: int | None = None) -> None:
        size = weights_size(config, dtype)
        if descriptor is None:
            descriptor, path = tempfile.mkstemp(prefix="llama3-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
            os.unlink(path)
            os.ftruncate(descriptor, size)
        self.descriptor, self.bytes = descriptor, mmap.mmap(descriptor, size)
        self.module = model_over(config, dtype, torch.frombuffer(self.bytes, dtype=torch.uint8))

    def close(self) -> None:
        """Let go of the file; the memory goes with the last that maps it."""
        os.close(self.descriptor)


def weights_size(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of all weights."""
    return _places(empty_model(config, ()), dtype)[1]


def model_over(config: ModelConfig, dtype: torch.dtype, bytes_N: Tensor) -> Transformer:
    """A model whose weights are these bytes (uint8), where `SharedModel` puts them."""
    model = empty_model(config, ())
    places, _ = _places(model, dtype)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assign(
        model,
        {name: bytes_N[place].view(dtype).view(shapes[name]) for name, place in places.items()},
    )
    return model.requires_grad_(False)


def _places(model: Transformer, dtype: torch.dtype) -> tuple[dict[str, slice], int]:
    """Where each weight lies, and the size of all."""
    places: dict[str, slice] = {}
    end = 0
    for name, parameter in model.named_parameters():
        if model.config.tied and name == "lm_head.weight":
            continue
        size = parameter.numel() * dtype.itemsize
        places[name] = slice(end, end + size)
        end += -(-size // ALIGNED) * ALIGNED
    return places, end
