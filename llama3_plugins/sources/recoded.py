"""Text in UTF-16 and UTF-32, read as UTF-8. Where it begins in ASCII, as JSON does, its first four bytes tell which of
them a file is in, with or without a byte order mark (RFC 4627)."""

from __future__ import annotations

import codecs
import io
import json
from typing import Any, BinaryIO


def encoding_of(file: BinaryIO) -> str:
    """The name of the encoding of a text that nobody has begun to read."""
    return json.detect_encoding(file.peek(4)[:4])  # type: ignore[attr-defined]  # all files that are opened here have it


def is_utf8(encoding: str) -> bool:
    """With a byte order mark or without."""
    return encoding.startswith("utf-8")


def in_utf8(file: BinaryIO, encoding: str) -> BinaryIO:
    """The same text in UTF-8, without a byte order mark. Reading raises UnicodeDecodeError where it is none."""
    return io.BufferedReader(_Recoded(file, encoding), 1 << 16)


class _Recoded(io.RawIOBase):
    """Halves of surrogate pairs stay, so that they cost one document and not the file."""

    PIECE = 1 << 16

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._output = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output and not self._ended:
            data = self._file.read(self.PIECE)
            self._ended = not data
            self._output = memoryview(self._decoder.decode(data, self._ended).encode("utf-8", "surrogatepass"))
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
