"""JSON lines, plain or compressed (.gz, .zst, .bz2, .xz): every line is an object that holds a document.

A `.json` file may also be one array of such objects. Text is UTF-8; a file in UTF-16 or UTF-32 is read as what it is.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field

from llama3.errors import DataError
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    bounded_lines,
    origin_of,
    pieces_of,
    remembered,
    require_unchanged,
    shards_of,
)
from llama3_plugins.sources.endings import JSON_LINES
from llama3_plugins.sources.line_spans import Span, line_spans, span_of
from llama3_plugins.sources.packed import BROKEN, Damaged, is_packed, opened, reason_of
from llama3_plugins.sources.recoded import encoding_of, in_utf8, is_utf8

LARGE_ARRAY = DataError.declare(
    "L3-SRC-015", "a JSON array of more than {limit} bytes", fix="write it as JSON lines, or raise max_document_bytes"
)
NAMED = 8
"""Fields that are told of a row, at most."""
PIECE = 256 << 20
"""Bytes of a file above which it is read in several shards, and of each of them."""
CUT_OFF = DataError.declare("L3-SRC-010", "cannot be read to its end", why="{error}")


class JsonlOptions(FileOptions):
    """Options of the `jsonl` source."""

    source: str = Field("jsonl", min_length=1, description="label of the documents, weighted by data.mix")
    text: str = Field("text", description="key of the text")
    url: str = Field("url", description="key of the document's address; default: file:line")
    date: str = Field("date", description="key of the document's date")
    damaged: Damaged = Field(
        "quarantine",
        description="a file that is cut off or damaged: quarantine it, or keep the documents that are sure",
    )


class JsonlSource:
    """A shard is a file, or a piece of a large one that is not compressed."""

    def __init__(self, options: JsonlOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        return [piece for shard in shards_of(self.options, JSON_LINES) for piece in self._pieces(shard)]

    def _pieces(self, shard: ShardRef) -> list[ShardRef]:
        (file,) = shard.files
        if shard.bytes <= PIECE or is_packed(Path(file.path)):
            return [shard]
        (spans,) = remembered(f"lines {PIECE}", [[(file.path, file.seen)]], lambda _: _spans(Path(file.path)))
        return pieces_of(shard, [tuple(span) for span in spans], [end - begin for begin, end, _ in spans])

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        path = shard.files[0].path
        origin = origin_of(options, path)
        try:
            with opened(Path(path), options.damaged) as stored:
                rows = self._rows(stored, shard, collector)
                for number, row in rows:
                    yield from self._document(row, f"{shard.location}:{number}", f"{origin}:{number}", collector)
        except (*BROKEN, UnicodeDecodeError) as error:  # the latter of a file in UTF-16 that is none
            if options.damaged == "quarantine":
                raise CUT_OFF(shard.location, error=error) from error
            collector.reject(shard.location, reason_of(error), str(error))
        require_unchanged(shard)
        yield from collector.rest()

    def _rows(self, stored: BinaryIO, shard: ShardRef, collector: Collector) -> Iterator[tuple[int, Any]]:
        """(number from 1, value) of every record of a file, or of a piece of it."""
        if shard.span:
            begin, end, before = shard.span
            return self._lines(span_of(stored, (begin, end, before)), shard.location, collector, before)
        encoding = encoding_of(stored)
        file = stored if is_utf8(encoding) else in_utf8(stored, encoding)
        if _is_array(Path(shard.files[0].path), file):
            return self._array(file, shard.location)
        return self._lines(file, shard.location, collector)

    def _array(self, file: BinaryIO, location: str) -> Iterator[tuple[int, Any]]:
        """(number from 1, value) of a file that is one array."""
        limit = self.options.max_document_bytes
        data = file.read(limit + 1)
        if len(data) > limit:
            raise LARGE_ARRAY(location, limit=limit)
        yield from enumerate(_parsed(data), 1)

    def _lines(self, file: BinaryIO, location: str, collector: Collector, before: int = 0) -> Iterator[tuple[int, Any]]:
        """(number from 1, value) of every line that holds one; the others are rejected. `before`: lines before."""
        limit = self.options.max_document_bytes
        for number, line in ((before + n, line) for n, line in bounded_lines(file, limit)):
            where = f"{location}:{number}"
            if line is None:
                collector.reject(where, "too_large", f"the line has more than {limit} bytes")
            elif line.strip():
                try:
                    yield number, _parsed(line)
                except UnicodeDecodeError as error:
                    collector.reject(where, "not_utf8", str(error))
                except (ValueError, RecursionError) as error:
                    collector.reject(where, "broken_json", str(error))

    def _document(self, row: Any, where: str, origin: str, collector: Collector) -> Iterator[DocumentBatch]:
        text = row.get(self.options.text) if isinstance(row, dict) else None
        if not isinstance(text, str):
            return collector.reject(where, "no_text", f"no string under {self.options.text!r}{_beside(row)}")
        url, date = row.get(self.options.url), row.get(self.options.date)
        yield from collector.add(
            text,
            url if isinstance(url, str) else where,
            origin=origin,
            date=date if isinstance(date, str) else "",
        )


def _beside(row: Any) -> str:
    """The strings that a row has instead: one of them may be the text."""
    names = [name for name, value in row.items() if isinstance(value, str)] if isinstance(row, dict) else []
    return f"; there is one under {', '.join(map(repr, names[:NAMED]))}" if names else ""


def _is_array(path: Path, file: Any) -> bool:
    return ".json" in path.suffixes and file.peek(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["


def _spans(path: Path) -> list[Span]:
    """The pieces of a large file; none where it cannot be cut."""
    try:
        with opened(path) as file:
            if _is_array(path, file) or not is_utf8(encoding_of(file)):
                return []
            return line_spans(file, PIECE)
    except OSError:
        return []  # whoever reads it will say what is wrong


def _parsed(data: bytes) -> Any:
    return _JSON.decode(data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogatepass"))


def _nothing(number: str) -> None: ...


_JSON = json.JSONDecoder(parse_int=_nothing, parse_float=_nothing)
"""Numbers are not read: one of ten thousand digits would cost the document that stands beside it."""
