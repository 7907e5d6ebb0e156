"""The GGUF container: its metadata and where its tensors lie. Torch-free; no tensor is read here.

Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian. Every length and offset is
compared with what the file holds before it is used: a damaged or hostile file is refused at once, whatever it claims.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from llama3.checkpoints.layouts import GGUF_MAGIC
from llama3.errors import CheckpointError, PluginError

DAMAGED = CheckpointError.declare("L3-GGF-001", "is no whole GGUF file", why="{why}", fix="fetch it again")
OTHER_VERSION = CheckpointError.declare(
    "L3-GGF-002",
    "this kind of GGUF cannot be read",
    why="it is {version}",
    fix="convert it to little-endian version {newest} with llama.cpp",
)
UNKNOWN_TYPE = CheckpointError.declare(
    "L3-GGF-003",
    "has the tensor type {type}, which the installed gguf package does not know",
    fix="update the package gguf, or convert the model to another type",
)
OUTSIDE = CheckpointError.declare(
    "L3-GGF-004",
    "ends at byte {end}, the file has {size}",
    why="it was cut short, or its header is wrong",
    fix="fetch the file again",
)
NO_GGUF_PACKAGE = PluginError.declare(
    "L3-GGF-005",
    "reading GGUF files needs the package gguf",
    why="it is not installed",
    fix="pip install 'llama3[gguf]'",
)

GgufType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]
"""Types in which matrices are written."""
VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_NESTING = 4
"""Arrays of arrays; no writer known makes more than one level."""
DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Type of a metadata value -> NumPy's name of it."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and how it is stored."""

    shape: tuple[int, ...]
    """Outermost axis first, as NumPy and torch say it."""
    type: str
    """ggml's name, such as "F32" or "Q4_1"."""
    offset: int
    """First byte in the file."""
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file says of itself."""

    path: Path
    metadata: dict[str, Any]
    """Plain Python values by key: numbers, bools, strings, and lists of them."""
    tensors: dict[str, TensorInfo]


def read_gguf(path: str | Path) -> GgufFile:
    """Read the header of a GGUF file. Raises CheckpointError, and PluginError without the package `gguf`."""
    path = Path(path)
    with open(path, "rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise DAMAGED(path, why="it is empty") from None
    with data:
        return _parse(path, _Cursor(path, data))


def ggml() -> ModuleType:
    """The package `gguf`: ggml's tensor types and their dequantization. Raises PluginError where it is missing."""
    try:
        import gguf
        import gguf.quants
    except ModuleNotFoundError as error:
        raise NO_GGUF_PACKAGE("gguf") from error
    return gguf


class _Cursor:
    """Reads values one after the other, never past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, count: int) -> int:
        """Step over `count` bytes that must be there; where they begin."""
        start = self.at
        if count > len(self.data) - start:
            raise DAMAGED(self.path, why=f"byte {start} begins a value of {count} bytes, the file has {len(self.data)}")
        self.at += count
        return start

    def u32(self) -> int:
        return int(struct.unpack_from("<I", self.data, self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack_from("<Q", self.data, self.take(8))[0])

    def string(self) -> str:
        length = self.u64()
        start = self.take(length)
        return self.data[start : start + length].decode("utf-8", "replace")

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array(nesting + 1)
        return self._numbers(kind, 1)[0]

    def _array(self, nesting: int) -> list[Any]:
        kind, count = self.u32(), self.u64()
        if kind in _NUMBERS:
            return self._numbers(kind, count)
        if nesting > MAX_NESTING or count > len(self.data) - self.at:  # an element takes more than a byte
            raise DAMAGED(self.path, why=f"byte {self.at} begins an array of {count} elements")
        return [self.value(kind, nesting) for _ in range(count)]

    def _numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _NUMBERS:
            raise DAMAGED(self.path, why=f"byte {self.at}: there is no metadata type {kind}")
        dtype = np.dtype(_NUMBERS[kind])
        start = self.take(count * dtype.itemsize)
        values: list[Any] = np.frombuffer(self.data[start : self.at], dtype).tolist()
        return values


def _parse(path: Path, cursor: _Cursor) -> GgufFile:
    start = cursor.take(len(GGUF_MAGIC))
    if cursor.data[start : cursor.at] != GGUF_MAGIC:
        raise DAMAGED(path, why=f"it does not begin with {GGUF_MAGIC!r}")
    version = cursor.u32()
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        found = f"big-endian version {swapped}" if swapped in VERSIONS else f"version {version}"
        raise OTHER_VERSION(path, version=found, newest=VERSIONS[-1])
    n_tensors, n_keys = cursor.u64(), cursor.u64()
    metadata = _table(cursor, n_keys, lambda: cursor.value(cursor.u32()))
    raw = _table(cursor, n_tensors, lambda: _raw_info(cursor))
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise DAMAGED(path, why=f"general.alignment is {alignment!r}, not a power of two")
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: _info(path, name, alignment, start, *entry) for name, entry in raw.items()}
    _refuse_outside(path, tensors, len(cursor.data))
    return GgufFile(path, metadata, tensors)


def _table(cursor: _Cursor, count: int, read: Callable[[], Any]) -> dict[str, Any]:
    """`count` names, each followed by what `read` reads."""
    table: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        if name in table:
            raise DAMAGED(cursor.path, why=f"{name[:80]!r} is there twice")
        table[name] = read()
    return table


def _raw_info(cursor: _Cursor) -> tuple[tuple[int, ...], int, int]:
    """(dims, innermost first; type; offset from the start of the data)"""
    n_dims = cursor.u32()
    if not 1 <= n_dims <= MAX_DIMS:
        raise DAMAGED(cursor.path, why=f"byte {cursor.at}: a tensor has {n_dims} dimensions")
    return tuple(cursor.u64() for _ in range(n_dims)), cursor.u32(), cursor.u64()


def _info(
    path: Path, name: str, alignment: int, start: int, dims: tuple[int, ...], kind: int, offset: int
) -> TensorInfo:
    constants = ggml().constants
    try:
        type_ = constants.GGMLQuantizationType(kind)
    except ValueError:
        raise UNKNOWN_TYPE(f"{path}: {name}", type=kind) from None
    block, block_bytes = constants.GGML_QUANT_SIZES[type_]
    elements = 1
    for dim in dims:
        elements *= dim
    if elements == 0 or dims[0] % block:
        raise DAMAGED(path, why=f"{name} has dimensions {dims}, of which blocks of {block} cannot be made")
    if offset % alignment:
        raise DAMAGED(path, why=f"{name} begins at the odd offset {offset}")
    return TensorInfo(dims[::-1], type_.name, start + offset, elements // block * block_bytes)


def _refuse_outside(path: Path, tensors: dict[str, TensorInfo], size: int) -> None:
    """Tensors that lie past the end of the file, or in one another."""
    problems = [
        OUTSIDE.problem(f"{path}: {name}", end=info.offset + info.bytes, size=size)
        for name, info in tensors.items()
        if info.offset + info.bytes > size
    ]
    if problems:
        raise CheckpointError.of(problems)
    placed = sorted((info.offset, info.bytes, name) for name, info in tensors.items())
    for (offset, length, name), (following, _, other) in itertools.pairwise(placed):
        if offset + length > following:
            raise DAMAGED(path, why=f"{name} and {other} share bytes")
