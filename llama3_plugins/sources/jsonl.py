"""JSON lines, plain or compressed (.gz, .zst): every line is an object that holds a document."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from pydantic import Field

from llama3.errors import DataError
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    bounded_lines,
    find_files,
    origin_of,
    shard_of,
)

CUT_OFF = DataError.declare("L3-SRC-010", "cannot be read to its end", why="{error}")

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json.gz", ".json.zst")


class JsonlOptions(FileOptions):
    """Options of the `jsonl` source."""

    source: str = Field("jsonl", min_length=1, description="label of the documents, weighted by data.mix")
    text: str = Field("text", description="key of the text")
    url: str = Field("url", description="key of the document's address; default: file:line")
    date: str = Field("date", description="key of the document's date")


class JsonlSource:
    """A shard is a file."""

    def __init__(self, options: JsonlOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        files = find_files(self.options, SUFFIXES)
        return [shard_of(self.options.source, str(file), [file]) for file in files]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        origin = origin_of(options, shard.location)
        try:
            with _opened(Path(shard.location)) as file:
                for number, line in bounded_lines(file, options.max_document_bytes):
                    yield from self._document(line, f"{shard.location}:{number}", f"{origin}:{number}", collector)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise CUT_OFF(shard.location, error=error) from error
        yield from collector.rest()

    def _document(self, line: bytes | None, where: str, origin: str, collector: Collector) -> Iterator[DocumentBatch]:
        if line is None:
            collector.reject(where, "too_large", f"the line has more than {self.options.max_document_bytes} bytes")
            return
        if not line.strip():
            return
        try:
            row: Any = json.loads(line)
        except UnicodeDecodeError as error:
            return collector.reject(where, "not_utf8", str(error))
        except (ValueError, RecursionError) as error:
            return collector.reject(where, "broken_json", str(error))
        text = row.get(self.options.text) if isinstance(row, dict) else None
        if not isinstance(text, str):
            return collector.reject(where, "no_text", f"no string under {self.options.text!r}")
        url, date = row.get(self.options.url), row.get(self.options.date)
        yield from collector.add(
            text,
            url if isinstance(url, str) else where,
            origin=origin,
            date=date if isinstance(date, str) else "",
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed by its suffix; all frames and members of it."""
    with path.open("rb") as raw:
        if path.suffix == ".gz":
            yield io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
        elif path.suffix == ".zst":
            yield io.BufferedReader(_Zstd(raw), 1 << 20)
        else:
            yield raw


class _Zstd(io.RawIOBase):
    """All frames of a zstd file. The library's own reader takes a file that ends inside a frame for complete."""

    PIECE = 4096  # compressed bytes taken at a time: bounds what one piece can grow to

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(self.PIECE)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
