"""The file of a fastText classifier (`.bin`, or quantised `.ftz`), read far enough to know that it is whole and sound.

The library trusts what it reads: a file that is cut off loads with numbers that are none, and a wrong size ends the
process. So nothing is given to it that does not fit to the byte: header, dictionary, both matrices, end of file.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from llama3.errors import DataError

NOT_SOUND = DataError.declare(
    "L3-CLS-002",
    "no sound fastText classifier",
    why="{why}",
    fix="give a whole .bin or .ftz of a supervised model",
)

MAGIC, VERSIONS = 793_712_314, (11, 12)
SUPERVISED = 3
_HEADER = struct.Struct("<2i12id")
_COUNTS = struct.Struct("<3i2q")
_SHAPE = struct.Struct("<2q")
_FLAG = struct.Struct("<B")
_CODES = struct.Struct("<i")
_PARTS = struct.Struct("<4i")
CENTROIDS = 256
_ENTRY = struct.Struct("<qb")
LONGEST_NAME = 1 << 16


class _Odd(Exception):  # noqa: N818
    """Why a file is refused."""


def check_fasttext(path: Path) -> None:
    """Raises DataError (L3-CLS-002) for a file that is not to be loaded, OSError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            _check(file, os.fstat(file.fileno()).st_size)
    except (_Odd, struct.error) as error:
        raise NOT_SOUND(path, why=str(error) if isinstance(error, _Odd) else "it is cut off") from None


def _check(file: BinaryIO, size: int) -> None:
    magic, version, dim, _, _, _, _, ngrams, loss, model, bucket, least, most, *_ = _read(file, _HEADER)
    if magic != MAGIC or version not in VERSIONS:
        raise _Odd("it does not begin as such a file does")
    if model != SUPERVISED:
        raise _Odd("it holds word vectors, and no classifier")
    hashed = ngrams > 1 or most > 0
    if not (0 < dim < 1 << 20 and 1 <= loss <= 4 and ngrams >= 1 and least >= 0 and most < 1 << 10):
        raise _Odd("its header holds numbers that no training writes")
    entries, words, labels, _, pruned = _read(file, _COUNTS)
    if not (words >= 0 and labels > 0 and entries == words + labels and bucket >= (1 if hashed else 0)):
        raise _Odd("its dictionary has no such size")
    for number in range(entries):
        _name(file)
        if (_read(file, _ENTRY)[1] == 1) != (number >= words):
            raise _Odd("its dictionary has words where labels should be")
    _skip(file, 8 * max(pruned, 0), size)
    hashed_rows = bucket if pruned < 0 else pruned
    for rows in (words + hashed_rows, labels):
        _matrix(file, rows, dim, size)
    if file.tell() != size:
        raise _Odd(f"{size - file.tell()} bytes follow its end")


def _read(file: BinaryIO, layout: struct.Struct) -> tuple[int, ...]:
    found: tuple[int, ...] = layout.unpack(file.read(layout.size))
    return found


def _name(file: BinaryIO) -> None:
    """Step over a text that ends with a zero byte."""
    start = file.tell()
    piece = b""
    while b"\0" not in piece:
        more = file.read(256)
        piece += more
        if not more or len(piece) > LONGEST_NAME:
            raise _Odd("it is cut off in its dictionary")
    file.seek(start + piece.index(b"\0") + 1)


def _matrix(file: BinaryIO, rows: int, columns: int, size: int) -> None:
    """Step over a matrix of this shape, quantised or not."""
    quantised = _flag(file)
    has_norms = _flag(file) if quantised else False
    there, wide = _read(file, _SHAPE)
    if (there, wide) != (rows, columns):
        raise _Odd(f"a matrix is {there} x {wide}, where it should be {rows} x {columns}")
    if not quantised:
        _skip(file, 4 * rows * columns, size)
        return
    (codes,) = _read(file, _CODES)
    _skip(file, max(codes, 0), size)
    parts = _quantizer(file, columns, size)
    if codes != rows * parts:
        raise _Odd(f"a matrix has {codes} codes, where it should have {rows * parts}")
    if has_norms:
        _skip(file, rows, size)
        _quantizer(file, 1, size)


def _quantizer(file: BinaryIO, columns: int, size: int) -> int:
    """Step over the centroids of a product quantizer (Jegou et al. 2011); returns its parts of a row."""
    wide, parts, width, last = _read(file, _PARTS)
    if wide != columns or min(parts, width, last) < 1 or last > width or (parts - 1) * width + last != columns:
        raise _Odd("its quantizer does not fit its matrix")
    _skip(file, 4 * columns * CENTROIDS, size)
    return parts


def _flag(file: BinaryIO) -> bool:
    (value,) = _read(file, _FLAG)
    if value not in (0, 1):
        raise _Odd("a mark is neither set nor unset")
    return bool(value)


def _skip(file: BinaryIO, count: int, size: int) -> None:
    file.seek(count, os.SEEK_CUR)
    if file.tell() > size:
        raise _Odd("it is cut off")
