"""Where weights come from: one protocol over all layouts, and the door that opens them.

Whatever the layout, tensors have Hugging Face's names, shapes and order of rotary channels, and are read one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from llama3.errors import CheckpointError, ConfigError, LlamaError
from llama3.model.config import ModelConfig
from llama3.model.shards import Part

ENDS_EARLY = CheckpointError.declare(
    "L3-CKP-012", "ends {missing} bytes before a tensor does", fix="fetch the checkpoint again"
)
NO_ARCHITECTURE = CheckpointError.declare(
    "L3-CKP-016",
    "describes no model that can be built: {key}: {what}",
    why="{why}",
    fix="use the files of one Llama-family model",
)


class WeightSource(Protocol):
    """A model on disk, its header read. Making one raises CheckpointError."""

    path: Path

    @property
    def config(self) -> ModelConfig:
        """The architecture."""
        ...

    @property
    def name(self) -> str:
        """What the model calls itself; the name of its directory where it says nothing."""
        ...

    @property
    def license(self) -> str | None:
        """Under which terms it was given out, if it says so."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor that the model has, by its Hugging Face name; one that has none keeps its own."""
        ...

    @property
    def types(self) -> Mapping[str, int]:
        """How many tensors are stored in which type ("BF16", "Q4_1")."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The precision that keeps all matrices as they are: float32, or bfloat16 or float16 if all are so stored."""
        ...

    def get(self, name: str) -> Tensor:
        """Read one tensor from disk, dequantized, in the type it is stored in (float32 where it was quantized)."""
        ...

    def part(self, name: str, part: Part) -> Tensor:
        """A part of a tensor as `get` would read it. Layouts whose tensors can be read in parts read only that."""
        ...


def no_architecture(path: Path, error: ConfigError) -> LlamaError:
    """A CheckpointError: the file's own values do not fit together as a `ModelConfig`."""
    return CheckpointError.of(
        NO_ARCHITECTURE.problem(path, key=found.where.removeprefix("model."), what=found.what, why=found.why)
        for found in error.problems
    )


def common_dtype(matrices: set[str]) -> torch.dtype:
    """The dtype in which to keep matrices of these stored types."""
    sixteen = {"BF16": torch.bfloat16, "F16": torch.float16}
    return sixteen.get(next(iter(matrices)), torch.float32) if len(matrices) == 1 else torch.float32


def read_tensor(path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor whose elements lie at byte `offset` of a file, outermost axis first, little-endian."""
    tensor = torch.empty(shape, dtype=dtype)
    read_into(tensor, path, offset)
    return tensor


def read_into(tensor: Tensor, path: Path, offset: int) -> None:
    """Fill a contiguous tensor from a file. Nothing is mapped: memory holds the tensor and no page beside it."""
    room = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while room:
            count = file.readinto(room)
            if not count:
                raise ENDS_EARLY(path, missing=len(room))
            room = room[count:]


def half_split(interleaved: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix from Meta's order, where a rotary pair is channels (2i, 2i + 1) of a head, to
    Hugging Face's, where it is (i, i + C/2). llama.cpp stores Meta's order."""
    return interleaved.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(interleaved.shape)


def interleave(half_split: Tensor, heads: int) -> Tensor:
    """The inverse of `half_split`."""
    return half_split.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(half_split.shape)
