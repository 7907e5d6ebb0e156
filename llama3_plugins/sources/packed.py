"""Compressed files, read by their ending (.gz, .zst, .bz2, .xz): all members and frames, and an error where one is cut
off."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import zstandard

from llama3.sources import Collector, ShardFile, read_bytes

BROKEN = (OSError, EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError)
"""What reading raises where a file is damaged, cut off or cannot be read."""

Damaged = Literal["quarantine", "keep"]
"""What is done with a damaged file: none of it is used, or what is sure of it is. Told it is in either case."""


class WrongDataError(OSError):
    """A file of which more cannot be trusted: its data or a checksum is wrong."""


def reason_of(error: Exception) -> str:
    """Under which reason a damaged file is rejected."""
    return "wrong_data" if isinstance(error, WrongDataError) else "cut_off"


@contextmanager
def opened(path: Path, damaged: Damaged = "quarantine") -> Iterator[BinaryIO]:
    """The file, decompressed by its suffix; all frames and members of it. Reading gives all that can be read, then
    raises one of BROKEN.

    With `keep` that is all before the point where a file is cut off, but where data is wrong only the frames before:
    what a decompressor makes of a wrong bit may be wrong long before it, or a checksum, finds out. So the file is
    decompressed twice."""
    begin = _FORMATS.get(path.suffix.lower())
    with path.open("rb") as raw:
        if begin is None:
            yield raw
            return
        sure = _sure(raw, begin) if damaged == "keep" else None
        yield io.BufferedReader(_Frames(raw, begin, sure), 1 << 20)


def _sure(raw: BinaryIO, begin: Callable[[], _Frame]) -> _Sure | None:
    """What of a file is sure where its data is wrong; None where it is whole or only cut off."""
    frames = _Frames(raw, begin)
    buffer = bytearray(1 << 20)
    try:
        while frames.readinto(buffer):
            pass
    except EOFError:
        return None
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the data
            return None
        told = f"{error}; what it holds behind byte {frames.whole} may be wrong"
        return _Sure(frames.whole, WrongDataError(told))
    finally:
        raw.seek(0)
    return None


def is_packed(path: Path) -> bool:
    """Whether it is compressed, by its suffix."""
    return path.suffix.lower() in _FORMATS


def unpacked_name(path: str) -> Path:
    """The name of what a file holds: without the ending that says how it is compressed."""
    return Path(path).with_suffix("") if is_packed(Path(path)) else Path(path)


def read_unpacked(file: ShardFile, collector: Collector, max_bytes: int) -> bytes | None:
    """What a file holds, decompressed by its suffix, or None after its rejection was logged."""
    data = read_bytes(file, collector, max_bytes)
    begin = _FORMATS.get(Path(file.path).suffix.lower())
    if data is None or begin is None:
        return data
    try:
        data = io.BufferedReader(_Frames(io.BytesIO(data), begin)).read(max_bytes + 1)
    except BROKEN as error:
        collector.reject(file.path, "cut_off", str(error))
        return None
    if len(data) > max_bytes:
        collector.reject(file.path, "too_large", f"it unpacks to more than {max_bytes} bytes")
        return None
    return data


class _Frame(Protocol):
    """A decompressor of one frame (zstd) or member (gzip) or stream (bz2, xz)."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Frame:
    return zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()


_FORMATS: dict[str, Callable[[], _Frame]] = {
    ".gz": lambda: zlib.decompressobj(31),
    ".zst": _zstd,
    ".zstd": _zstd,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


@dataclass(frozen=True)
class _Sure:
    """So many bytes of what a file holds, then the error."""

    bytes: int
    error: WrongDataError


class _Frames(io.RawIOBase):
    """All frames of a file. The libraries' own readers take a file that ends inside a frame for complete (zstandard),
    or keep back what stands before the break (gzip)."""

    PIECE = 4096  # compressed bytes taken at a time: bounds what one piece can grow to

    def __init__(self, raw: BinaryIO, begin: Callable[[], _Frame], sure: _Sure | None = None) -> None:
        self._raw, self._begin, self._sure = raw, begin, sure
        self._given = 0
        self.whole = 0
        """Bytes of the frames that ended as they should, checksum included."""
        self._frame: _Frame | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._sure and self._given == self._sure.bytes:
            raise self._sure.error
        while not self._output:
            if self._frame is None:
                self.whole = self._given
            self._input = self._input or self._raw.read(self.PIECE)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends inside a compressed frame")
                return 0
            if self._frame is None:
                self._input = self._input.lstrip(b"\0")  # which fill up blocks between frames
                if not self._input:
                    continue
                self._frame = self._begin()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._output), self._sure.bytes - self._given if self._sure else sys.maxsize)
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        self._given += size
        return size
