"""Weights from a Hugging Face directory: `config.json` and safetensors, whole or sharded. No pickle is ever read."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama3.checkpoints.layouts import CONFIG_FILE, listing
from llama3.checkpoints.license import license_of
from llama3.checkpoints.source import common_dtype, no_architecture
from llama3.errors import CheckpointError, ConfigError
from llama3.foreign import MAX_TABLE, Fields, UnusableFile, checked, read_json
from llama3.model.config import ModelConfig
from llama3.model.shards import Part

UNREADABLE = CheckpointError.declare(
    "L3-CKP-002", "cannot be read as the description of a model", why="{reason}", fix="fetch the checkpoint again"
)
NO_SAFETENSORS = CheckpointError.declare(
    "L3-CKP-003", "is not a whole safetensors file ({error})", fix="fetch or write the checkpoint again"
)
NO_WEIGHTS = CheckpointError.declare(
    "L3-CKP-004", "has no {single} and no {index}", why="{why}", fix="use a safetensors checkpoint"
)
NO_INDEX = CheckpointError.declare("L3-CKP-005", "is not a weight index ({kind}: {error})", fix="fetch it again")
INCOMPLETE = CheckpointError.declare(
    "L3-CKP-006", "lacks {name} and {more} more", why="the index names it", fix="fetch it again"
)
NO_CONFIG = CheckpointError.declare(
    "L3-CKP-014",
    "cannot be read ({error})",
    why="the folder holds {listing}",
    fix="give the folder of a checkpoint",
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = SINGLE_FILE + ".index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_READABLE = ("compressed-tensors", "fbgemm_fp8")
"""Values of quant_method that llama3.checkpoints.compressed_tensors reads."""
_COMPARED_ELEMENTS = 1 << 22
"""Elements of two matrices that are compared at once."""


class HfWeights:
    """A Hugging Face directory as a `llama3.checkpoints.source.WeightSource`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = read_raw_config(path)
        """The contents of config.json."""
        self._stated = parse_config(self.raw, path)

    @cached_property
    def config(self) -> ModelConfig:
        """What config.json says, but for a tied output matrix that is stored and is another: then it is not tied."""
        tied = self._stated.tied and not ("quantization" not in self.raw and self._tensors.differ(EMBEDDING, HEAD))
        return dataclasses.replace(self._stated, tied=tied)

    @cached_property
    def _tensors(self) -> Tensors:
        tensors = Tensors(self.path)
        if self._stated.tied and EMBEDDING not in tensors.shapes:  # one matrix, stored under the other name
            tensors.rename(HEAD, EMBEDDING)
        return tensors

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def license(self) -> str | None:
        return license_of(self.path)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._tensors.shapes

    @property
    def types(self) -> Mapping[str, int]:
        return Counter(self._tensors.types.values())

    @property
    def dtype(self) -> torch.dtype:
        types = self._tensors.types
        return common_dtype({types[name] for name, shape in self.shapes.items() if len(shape) > 1})

    def get(self, name: str) -> Tensor:
        return self._tensors.get(name)

    def part(self, name: str, part: Part) -> Tensor:
        return self._tensors.part(name, part)


class Tensors:
    """The tensors of a checkpoint directory, from one file or from the shards that its index names.

    A file is mapped only while one of its tensors is read: pages of the others would stay in memory beside the model.
    """

    def __init__(self, folder: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        """safetensors' name of each tensor's type, such as "BF16"."""
        self._stored: dict[str, str] = {}
        """Name in the file, where it is another."""
        self._file_of = self._index(folder)

    def get(self, name: str) -> Tensor:
        with _open(self._file_of[name]) as file:
            return file.get_tensor(self._stored.get(name, name))

    def part(self, name: str, part: Part) -> Tensor:
        """A part of a tensor; of the file, the pages that hold it."""
        with _open(self._file_of[name]) as file:
            piece: Tensor = file.get_slice(self._stored.get(name, name))[part]
            return piece

    def differ(self, name: str, other: str) -> bool:
        """Whether both tensors are there and are not the same numbers. Memory holds some rows of each."""
        if not {name, other} <= self.shapes.keys():
            return False
        if self.shapes[name] != self.shapes[other]:
            return True
        rows, *columns = self.shapes[name] or (1,)
        step = max(1, _COMPARED_ELEMENTS // max(1, math.prod(columns)))
        with _open(self._file_of[name]) as file, _open(self._file_of[other]) as file_of_other:
            one, two = file.get_slice(name), file_of_other.get_slice(other)
            return any(not torch.equal(one[at : at + step], two[at : at + step]) for at in range(0, rows, step))

    def rename(self, name: str, new: str) -> None:
        """Call a tensor by another name, where it is there."""
        if name in self.shapes:
            self._stored[new] = name
            self.shapes[new] = self.shapes.pop(name)
            self.types[new] = self.types.pop(name)
            self._file_of[new] = self._file_of.pop(name)

    def _index(self, folder: Path) -> dict[str, Path]:
        if (single := folder / SINGLE_FILE).exists():
            return dict.fromkeys(self._header(single), single)
        index = folder / INDEX_FILE
        if not index.exists():
            pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
            why = (
                "pickled weights can run code and are never read" if pickled else f"the folder holds {listing(folder)}"
            )
            raise NO_WEIGHTS(folder, single=SINGLE_FILE, index=INDEX_FILE, why=why)
        try:
            weight_map = read_json(index, MAX_TABLE)["weight_map"]
            files = {name: folder / Path(file).name for name, file in weight_map.items()}
        except (UnusableFile, KeyError, AttributeError, TypeError) as error:
            raise NO_INDEX(index, kind=type(error).__name__, error=error) from error
        for path in sorted(set(files.values())):
            present = self._header(path)
            if missing := sorted(name for name, file in files.items() if file == path and name not in present):
                raise INCOMPLETE(path, name=missing[0], more=len(missing) - 1)
        self.shapes = {name: self.shapes[name] for name in files}
        self.types = {name: self.types[name] for name in files}
        return files

    def _header(self, path: Path) -> set[str]:
        """Note shape and type of each tensor in a file; their names."""
        with _open(path) as file:
            names = set(file.keys())
            for name in names:
                piece = file.get_slice(name)
                self.shapes[name], self.types[name] = tuple(piece.get_shape()), piece.get_dtype()
        return names


def _open(path: Path) -> Any:
    try:
        return safe_open(checked(path), framework="pt")
    except (UnusableFile, SafetensorError, OSError) as error:
        raise NO_SAFETENSORS(path, error=error) from error


def read_raw_config(folder: Path) -> dict[str, Any]:
    """The contents of `folder/config.json`."""
    path = folder / CONFIG_FILE
    try:
        return read_json(path)
    except OSError as error:
        raise NO_CONFIG(path, error=error, listing=listing(folder)) from error
    except UnusableFile as error:
        raise UNREADABLE(path, reason=error) from error


def is_compressed(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json says that matrices are quantized in a way that can be read."""
    return Fields(raw).object("quantization_config").text("quant_method") in _READABLE


def parse_config(raw: Mapping[str, Any], folder: Path) -> ModelConfig:
    """The architecture in the contents of a config.json; a quantized model has that of the one it was."""
    named = {**raw, "model_type": "llama"} if "quantization" in raw else raw
    if is_compressed(raw):
        named = {key: value for key, value in named.items() if key != "quantization_config"}
    try:
        return ModelConfig.from_hf(named, str(folder / CONFIG_FILE))
    except ConfigError as error:
        raise no_architecture(folder / CONFIG_FILE, error) from error
