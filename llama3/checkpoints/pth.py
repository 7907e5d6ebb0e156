"""What `torch.save` wrote of a dict of tensors, read without executing its pickle. Torch-free; no tensor is read here.

A .pth file is a zip archive: one pickle that describes the tensors, and one stored member per storage. A pickle is a
program that may call anything. This module walks its opcodes (`pickletools.genops` decodes, it runs nothing) and
understands only those with which torch describes tensors; every other opcode and every other name is refused.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3.errors import CheckpointError
from llama3.foreign import UnusableFile, checked

DAMAGED = CheckpointError.declare("L3-PTH-001", "is no whole .pth file", why="{why}", fix="fetch it again")
PROGRAM = CheckpointError.declare(
    "L3-PTH-002",
    "its pickle {what}",
    why="a pickle is a program; nothing of this one was executed",
    fix="do not use this file, or have who made it save plain weights as safetensors",
)
OLD_LAYOUT = CheckpointError.declare(
    "L3-PTH-003",
    "cannot be read ({error})",
    why="it is no zip archive: torch wrote such files before version 1.6, or it is damaged",
    fix="save it again with a present torch, or fetch it again",
)
NOT_A_TENSOR = CheckpointError.declare(
    "L3-PTH-004", "{name!r} is not a tensor", fix="give weights only, a dict of tensors"
)

MAX_PICKLE_BYTES = 1 << 23
"""Real ones have some kilobytes: a line per tensor."""
MAX_REUSE = 2
"""All tensors together may be so many times as large as the file: a tied output matrix is stored once."""

_DTYPES = {
    "torch FloatStorage": ("float32", 4),
    "torch HalfStorage": ("float16", 2),
    "torch BFloat16Storage": ("bfloat16", 2),
    "torch DoubleStorage": ("float64", 8),
}
"""Storage class -> (torch's name of its dtype, bytes of an element)"""
_WIDTHS = dict(_DTYPES.values())
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_KNOWN = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPES}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements in the archive."""

    offset: int
    """First byte in the file."""
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a view of a storage; `start` and `stride` count elements."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Elements from its first to its last."""
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class _Name:
    """A global name, not looked up."""

    text: str


def read_pth(path: str | Path) -> dict[str, Stored]:
    """The tensors of a .pth file by name.

    Raises CheckpointError for a damaged file, a pickle that does anything else than describe tensors, a layout that
    torch no longer writes, and anything but named tensors.
    """
    path = Path(path)
    try:
        size = checked(path).stat().st_size
        with zipfile.ZipFile(path) as archive:
            pickle, members = _members(path, archive)
    except zipfile.BadZipFile as error:
        raise OLD_LAYOUT(path, error=error) from error
    except UnusableFile as error:
        raise DAMAGED(path, why=str(error)) from error
    except (OSError, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise DAMAGED(path, why=repr(error)) from error
    try:
        made = _Reader(path, members).read(pickle)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DAMAGED(path, why=f"its pickle is broken: {type(error).__name__}: {error}") from error
    odd = [key for key, x in made.items() if not isinstance(x, Stored)] if isinstance(made, dict) else ["its content"]
    if odd:
        raise NOT_A_TENSOR(path, name=odd[0][:80])
    tensors: dict[str, Stored] = made
    if sum(x.elements * _WIDTHS[x.storage.dtype] for x in tensors.values()) > MAX_REUSE * size:
        raise DAMAGED(path, why=f"its tensors are over {MAX_REUSE} times as large as the file")
    return tensors


def _members(path: Path, archive: zipfile.ZipFile) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The pickle, and (first byte, bytes) of every storage by its key."""
    pickles = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise DAMAGED(path, why="it does not hold one data.pkl of a sensible size")
    root = pickles[0].filename.removesuffix("data.pkl")
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise DAMAGED(
                path, why=f"its member {info.filename[:80]!r} is compressed or encrypted; torch stores plainly"
            )
    order = root + "byteorder"
    if order in archive.namelist() and (archive.getinfo(order).file_size > 8 or archive.read(order) != b"little"):
        raise DAMAGED(path, why="it was written on a big-endian machine")
    prefix = root + "data/"
    storages = {
        info.filename.removeprefix(prefix): (_first_byte(path, info), info.file_size)
        for info in archive.infolist()
        if info.filename.startswith(prefix)
    }
    return archive.read(pickles[0]), storages


def _first_byte(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's content begins: after its local header, whose padding only the header itself tells."""
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", file.read(30))
        start = int(info.header_offset + 30 + name_length + extra_length)
        if start + info.file_size > file.seek(0, 2):
            raise DAMAGED(path, why=f"its member {info.filename[:80]!r} lies past the end")
    return start


class _Reader:
    """A stack machine for the opcodes of a tensor dict. It builds dicts, tuples, numbers, strings and `Stored`.

    Work and memory grow with the pickle: a tuple holds no tuple of tuples, so that none of them, doubled again and
    again by reference, is larger than it looks; nothing but strings is ever hashed.
    """

    def __init__(self, path: Path, members: dict[str, tuple[int, int]]) -> None:
        self.path = path
        self.members = members
        self.stack: list[Any] = []
        self.marks: list[int] = []
        """Where on the stack the items of containers begin."""
        self.memo: dict[int, Any] = {}

    def read(self, pickle: bytes) -> Any:
        for opcode, argument, at in pickletools.genops(pickle):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _PUSHED:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in _IGNORED:
                raise self.refused(f"uses the opcode {opcode.name} at byte {at}")
        raise ValueError("no STOP")

    def refused(self, what: str) -> CheckpointError:
        return PROGRAM(self.path, what=what)

    # -- what opcodes do ---------------------------------------------------------------------------

    def name(self, text: str) -> None:
        """A global: known names are kept as names, all others are refused before anything could use them."""
        if text not in _KNOWN:
            raise self.refused(f"names {text.replace(' ', '.', 1)[:120]!r}, which is no part of a tensor")
        self.stack.append(_Name(text))

    def global_(self, argument: str) -> None:
        self.name(argument)

    def stack_global(self, _: object) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.name(f"{module} {attribute}")

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def pop_to_mark(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def pop(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < 0 or count < 0:
            raise IndexError("the stack is empty")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def tuple_(self, items: list[Any]) -> None:
        if any(isinstance(inner, tuple) for item in items if isinstance(item, tuple) for inner in item):
            raise ValueError("a tuple holds tuples of tuples")
        self.stack.append(tuple(items))

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(target, dict) or not isinstance(key, str):
                raise ValueError("an item is set on no dict, or under no string")
            target[key] = value

    def set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_marked_items(self, _: object) -> None:
        self.set_items(self.pop_to_mark())

    def build(self, _: object) -> None:
        """A state dict carries its module's versions as an attribute: they are dropped."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], dict) or not isinstance(state, dict):
            raise self.refused("sets the state of an object")

    def storage(self, _: object) -> None:
        """A persistent id: ("storage", class, key, device, elements)"""
        kind, class_, key, _device, elements = self.stack.pop()
        if kind != "storage" or not isinstance(class_, _Name) or class_.text not in _DTYPES:
            raise self.refused("asks for something that is no storage of floating-point numbers")
        dtype, width = _DTYPES[class_.text]
        if not isinstance(key, str):
            raise ValueError("a storage has no name")
        offset, size = self.members[key]
        if not isinstance(elements, int) or elements < 0 or elements * width > size:
            raise DAMAGED(
                self.path, why=f"storage {key[:40]!r} has {size} bytes, its description says {elements} {dtype}"
            )
        self.stack.append(Storage(offset, dtype, elements))

    def reduce(self, _: object) -> None:
        """A call of one of the three known functions."""
        arguments, function = self.stack.pop(), self.stack.pop()
        text = function.text if isinstance(function, _Name) else type(function).__name__
        if text == _ORDERED_DICT and arguments == ():
            self.stack.append({})
        elif text == _TENSOR:
            self.stack.append(self._tensor(*arguments[:4]))
        elif text == _PARAMETER and isinstance(arguments[0], Stored):
            self.stack.append(arguments[0])
        else:
            raise self.refused(f"calls {text.replace(' ', '.', 1)!r} in a way that makes no tensor")

    def _tensor(self, storage: Storage, start: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Stored:
        numbers = (start, *shape, *stride)
        if not isinstance(storage, Storage) or len(shape) != len(stride):
            raise ValueError("a tensor has no storage, or other strides than axes")
        if not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in numbers) or len(shape) > 8:
            raise ValueError("a tensor has an impossible shape")
        made = Stored(storage, start, tuple(shape), tuple(stride))
        if 0 not in shape and start + made.span > storage.elements:
            raise ValueError(f"a tensor of shape {shape} lies past the end of its storage")
        return made


_PUSHED = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME"}
_ACTIONS: dict[str, Callable[[_Reader, Any], None]] = {
    "GLOBAL": _Reader.global_,
    "STACK_GLOBAL": _Reader.stack_global,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.memoize,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "MARK": _Reader.mark,
    "TUPLE": lambda reader, _: reader.tuple_(reader.pop_to_mark()),
    "TUPLE1": lambda reader, _: reader.tuple_(reader.pop(1)),
    "TUPLE2": lambda reader, _: reader.tuple_(reader.pop(2)),
    "TUPLE3": lambda reader, _: reader.tuple_(reader.pop(3)),
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_marked_items,
    "BUILD": _Reader.build,
    "BINPERSID": _Reader.storage,
    "REDUCE": _Reader.reduce,
}
