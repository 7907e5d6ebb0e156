"""The records of a web archive (WARC 1.0 and 1.1, ISO 28500), one after another, whatever some of them are like.

Memory is bounded by the limit of a record and time is linear in the file. A record is given out only where its length
is right: what follows it is the end of a record. Where it is not, and where a member of a `.gz` is damaged, the
record is told as a `BrokenRecord` and reading goes on at the next one.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llama3_plugins.sources.packed import BROKEN, opened

PIECE = 1 << 16
MOST_HEADER = 1 << 16
"""Bytes of a record's own header."""
_BLANK = b"\r\n"
_MOST_BLANK = 64
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FIRST = re.compile(rb"WARC/[01]\.\d+[ \t]*\r?\n")
_NEXT = re.compile(rb"\nWARC/[01]\.\d+[ \t]*\r?\n")
_START = b"WARC/"
_LINE = 32
"""Bytes that such a line has at most."""
_GZIP = b"\x1f\x8b\x08"
_TRIAL = 1024
"""Compressed bytes in which it shows whether a member begins with a record."""


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """A record: its header (names in lower case) and its content."""

    where: str
    """Offset of its member in the file and, where the member holds several, "+" and the offset in it."""
    header: dict[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """What cannot be given out, and why."""

    where: str
    reason: str
    detail: str


Found = Iterator[WarcRecord | BrokenRecord]


def warc_records(path: Path, limit: int) -> Found:
    """The records of a file, plain or compressed by its ending; contents of more than `limit` bytes are skipped."""
    if path.suffix.lower() == ".gz":
        with path.open("rb") as raw:
            yield from _members(raw, limit)
    else:
        with opened(path) as file:
            window = _Window(lambda: file.read(PIECE))
            yield from _records(window, limit, 0)


# -- gzip members ----------------------------------------------------------------------------------


def _members(raw: BinaryIO, limit: int) -> Found:
    """The records of every member, each on its own: a damaged one costs no other."""
    start = 0
    while True:
        member = _Member(raw, start)
        if not member.begins():
            return
        window = _Window(member.more)
        yield from _records(window, limit, start)
        while window.fill(1):  # to the end of the member, where its checksum stands
            window.drop(len(window.data))
        start = member.end if not window.error else _next_member(raw, start + 1)


class _Member:
    """A gzip member from `start` on, in pieces."""

    def __init__(self, raw: BinaryIO, start: int) -> None:
        self._raw = raw
        self._inflate = zlib.decompressobj(31)
        raw.seek(start)
        self._input = raw.read(PIECE)
        self.end = start

    def begins(self) -> bool:
        """Whether anything but zeros, which some writers fill a block with, is left of the file."""
        while self._input and not (kept := self._input.lstrip(b"\0")):
            self._input = self._raw.read(PIECE)
        self._input = kept if self._input else b""
        return bool(self._input)

    def more(self) -> bytes:
        while not self._inflate.eof:
            self._input = self._input or self._raw.read(PIECE)
            if not self._input:
                raise EOFError("the file ends inside a gzip member")
            piece = self._inflate.decompress(self._input, PIECE)
            self._input = self._inflate.unconsumed_tail
            if piece:
                return piece
        self.end = self._raw.tell() - len(self._inflate.unused_data)
        return b""


def _next_member(raw: BinaryIO, start: int) -> int:
    """Offset of the first member from `start` on that begins with a record; the end of the file where none does."""
    offset = start
    while True:
        raw.seek(offset)
        data = raw.read(PIECE)
        at = data.find(_GZIP)
        while at >= 0 and (at <= PIECE - _TRIAL or len(data) < PIECE):
            if _is_record(data[at : at + _TRIAL]):
                return offset + at
            at = data.find(_GZIP, at + 1)
        if at < 0 and len(data) < PIECE:
            return offset + len(data)
        offset += at if at >= 0 else PIECE - len(_GZIP) + 1


def _is_record(data: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(data, len(_START)) == _START
    except zlib.error:
        return False


# -- records of a stream -----------------------------------------------------------------------------


class _Window:
    """What is read of a stream and not yet used. `error` says how the stream broke off."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self.data = bytearray()
        self.offset = 0
        self.error = ""

    def fill(self, size: int) -> bool:
        """Reads until `size` bytes are there; False where the stream ends before."""
        while len(self.data) < size and not self.error:
            try:
                piece = self._more()
            except BROKEN as error:
                self.error = str(error) or type(error).__name__
                return False
            if not piece:
                return False
            self.data += piece
        return len(self.data) >= size

    def drop(self, size: int) -> None:
        del self.data[:size]
        self.offset += size

    def drop_blank(self) -> None:
        while self.fill(1) and self.data[0] in _BLANK:
            blank = len(self.data) - len(self.data.lstrip(_BLANK))
            self.drop(blank)

    def drop_to_record(self, most: int = sys.maxsize) -> int:
        """Drops what stands before the next line that begins a record, `most` bytes at most; returns how many."""
        dropped = 0
        self.fill(_LINE)
        if _FIRST.match(self.data):
            return 0
        while True:
            reach = min(len(self.data), most - dropped)
            found = _NEXT.search(self.data, 0, reach + _LINE)
            if found and found.start() < reach:
                self.drop(found.start() + 1)
                return dropped + found.start() + 1
            goes_on = reach < most - dropped and self.fill(len(self.data) + 1)
            step = max(0, reach - _LINE) if goes_on else reach  # the line may be cut by the piece's end
            self.drop(step)
            dropped += step
            if not goes_on:
                return dropped


def _records(window: _Window, limit: int, start: int) -> Found:
    """The records of one stream that begins at offset `start` of the file."""
    while True:
        window.drop_blank()
        if not window.fill(1):
            if window.error:
                yield _broken(window, start, "broken_archive", "")
            return
        yield _record(window, limit, start)
        if window.error:
            return


def _record(window: _Window, limit: int, start: int) -> WarcRecord | BrokenRecord:
    where = f"{start}+{window.offset}" if window.offset else str(start)
    begun = window.offset
    header = _header(window)
    if header is None:
        window.drop(1)  # so that what is no header is not found again
        window.drop_to_record()
        size = window.offset - begun
        return _broken(window, start, "broken_header", f"{size} bytes that begin no record", where)
    uri = header.get("warc-target-uri", "").strip("<>")
    named = f"{uri}: " if uri else ""
    length = _length(header)
    if length is None:
        window.drop_to_record()
        value = header.get("content-length")
        told = "its header has no Content-Length" if value is None else f"its Content-Length is {value[:40]!r}"
        return _broken(window, start, "no_length", named + told, where)
    if length > limit:
        passed = window.drop_to_record(length)
        told = f"{length} bytes; the limit is {limit}" if passed == length else f"of {length} bytes {passed} are there"
        return _broken(window, start, "too_large" if passed == length else "wrong_length", named + told, where)
    if not window.fill(length):
        return _wrong(window, start, named, f"its header says {length} bytes", where)
    if not _ends_at(window, length):
        return _wrong(window, start, named, f"what follows after {length} bytes is no record", where)
    content = bytes(window.data[:length])
    window.drop(length)
    return WarcRecord(where, header, content)


def _wrong(window: _Window, start: int, named: str, told: str, where: str) -> BrokenRecord:
    window.drop_to_record()
    return _broken(window, start, "wrong_length", named + told, where)


def _broken(window: _Window, start: int, reason: str, detail: str, where: str = "") -> BrokenRecord:
    """The reason is the stream's where that is what broke."""
    if window.error:
        detail = ": ".join(part for part in (detail, window.error) if part)
        reason = "broken_archive"
    return BrokenRecord(where or str(start), reason, detail)


def _header(window: _Window) -> dict[str, str] | None:
    """The header of a record, taken out of the window; None where there is none."""
    window.fill(_LINE)
    if not _FIRST.match(window.data):
        return None
    searched = 0
    while not (found := _HEAD_END.search(window.data, searched)):
        searched = max(0, len(window.data) - 3)
        if searched > MOST_HEADER or not window.fill(len(window.data) + 1):
            return None
    raw = bytes(window.data[: found.start()])
    if inner := _FIRST.search(raw + b"\n", 1):  # of another record, which this one's rest runs into
        window.drop(inner.start() - 1)
        return None
    window.drop(found.end())
    return parsed_header(raw)


def parsed_header(raw: bytes) -> dict[str, str]:
    """Names (lower case) to values of the lines below the first; the first of a name stands, folded lines are one."""
    header: dict[str, str] = {}
    name = ""
    for line in raw.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")[1:]:
        if line[:1] in (" ", "\t") and name:
            header[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name not in header:
            header[name] = value.strip()
        else:
            name = ""
    return header


def _length(header: dict[str, str]) -> int | None:
    value = header.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None


def _ends_at(window: _Window, length: int) -> bool:
    """Whether the record's content ends there: before blank lines and another record or the end, or before the two
    ends of line that the standard asks for and anything else, where no record begins in the content."""
    window.fill(length + _MOST_BLANK + len(_START))
    after = bytes(window.data[length : length + _MOST_BLANK + len(_START)])
    left = after.lstrip(_BLANK)
    if window.error or not left or left.startswith(_START):
        return not window.error
    holds_record = _FIRST.match(window.data) or _NEXT.search(window.data, 0, length)
    return after.startswith(b"\r\n\r\n") and not holds_record
