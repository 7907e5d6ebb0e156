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

from llama3.errors import DoesNotFit
from llama3.model.build import assign, empty_model
from llama3.model.config import ModelConfig
from llama3.model.needs import size as memory_size
from llama3.model.transformer import Transformer

NO_ROOM = DoesNotFit.declare(
    "L3-ROL-006",
    "weights that workers map need {needed}, and neither of {places} has room",
    fix="give the container more shared memory (docker run --shm-size), free some space, or set "
    "post_training.rollouts.where to here",
)

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
            descriptor = _file_of(size)
        self.descriptor, self.bytes = descriptor, mmap.mmap(descriptor, size)
        self.module = model_over(config, dtype, torch.frombuffer(self.bytes, dtype=torch.uint8))

    def close(self) -> None:
        """Let go of the file; the memory goes with the last that maps it."""
        os.close(self.descriptor)


def _file_of(size: int) -> int:
    """The descriptor of a new file without a name, all of whose bytes are reserved: in memory, or where that has no
    room, as in many containers, among temporary files. Raises DoesNotFit where there is no room either."""
    for folder in (IN_MEMORY, Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        descriptor, path = tempfile.mkstemp(prefix="llama3-", dir=folder)
        os.unlink(path)
        try:
            # A file that is only made long ends the process that writes it where memory is short.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError:
            os.close(descriptor)
            continue
        return descriptor
    raise NO_ROOM("rollouts", needed=memory_size(size), places=[str(IN_MEMORY), tempfile.gettempdir()])


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
