"""Pieces of a large file of lines: each ends with a line, and knows how many lines are before it."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

READ = 1 << 20
Span = tuple[int, int, int]
"""First byte, the byte after the last, lines before."""


def line_spans(file: BinaryIO, size: int) -> list[Span]:
    """Pieces of `size` bytes and the rest of a line. One pass, in memory of a megabyte."""
    spans: list[Span] = []
    begin = at = before = lines = 0
    while data := file.read(READ):
        done = 0
        while end := _line_end(data, begin + size - at, done):
            lines += data.count(b"\n", done, end)
            spans.append((begin, at + end, before))
            begin, before, done = at + end, lines, end
        lines += data.count(b"\n", done)
        at += len(data)
    return [*spans, (begin, at, before)] if at > begin else spans


def _line_end(data: bytes, least: int, done: int) -> int:
    """Where the first line ends that reaches `least`, after what is done; 0 where none does here."""
    return data.find(b"\n", max(least - 1, done)) + 1 if least <= len(data) else 0


def span_of(file: BinaryIO, span: Span) -> BinaryIO:
    """These bytes of a file as a file."""
    begin, end, _ = span
    file.seek(begin)
    return io.BufferedReader(_Cut(file, end - begin), READ)


class _Cut(io.RawIOBase):
    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)
