"""Parquet files with a column of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from llama3.errors import DataError, did_you_mean
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    decode,
    find_files,
    open_parquet,
    origin_of,
    shard_of,
)

NO_COLUMN = DataError.declare("L3-SRC-011", "no column {column!r}", why="{near}")
CUT_OFF = DataError.declare("L3-SRC-012", "cannot be read to its end", why="{error}")
NO_TEXT = DataError.declare("L3-SRC-013", "column {column!r} holds {type}, not text")

ROWS = 1024


class ParquetOptions(FileOptions):
    """Options of the `parquet` source."""

    source: str = Field("parquet", min_length=1, description="label of the documents, weighted by data.mix")
    text: str = Field("text", description="column of the text")
    url: str = Field("url", description="column of the document's address; default: file:row")
    date: str = Field("date", description="column of the document's date")


class ParquetSource:
    """A shard is a file."""

    def __init__(self, options: ParquetOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        files = find_files(self.options, (".parquet",))
        return [shard_of(self.options.source, str(file), [file]) for file in files]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        file = open_parquet(Path(shard.location))
        names = file.schema_arrow.names
        if options.text not in names:
            near = did_you_mean(options.text, names) or f"columns: {', '.join(names)}"
            raise NO_COLUMN(shard.location, column=options.text, near=near)
        row = 0
        try:
            for records in file.iter_batches(
                ROWS, columns=[n for n in (options.text, options.url, options.date) if n in names]
            ):
                yield from self._documents(records, shard.location, row, collector)
                row += records.num_rows
        except (OSError, pa.ArrowException) as error:
            raise CUT_OFF(shard.location, error=error) from error
        yield from collector.rest()

    def _documents(
        self, records: pa.RecordBatch, location: str, first_row: int, collector: Collector
    ) -> Iterator[DocumentBatch]:
        """Text goes through bytes, because Parquet's strings may hold anything."""
        options = self.options
        column = records.column(options.text)
        if not _is_text(column.type):
            raise NO_TEXT(location, column=options.text, type=column.type)
        origin = origin_of(options, location)
        urls, dates = self._strings(records, options.url), self._strings(records, options.date)
        for i, data in enumerate(column.cast(pa.large_binary()).to_pylist()):
            where = f"{location}:{first_row + i}"
            if data is None:
                collector.reject(where, "no_text", "null")
            elif len(data) > options.max_document_bytes:
                collector.reject(
                    where, "too_large", f"{len(data)} bytes; the limit is {options.max_document_bytes}", len(data)
                )
            elif (text := decode(data, where, collector)) is not None:
                yield from collector.add(text, urls[i] or where, origin=f"{origin}:{first_row + i}", date=dates[i])

    def _strings(self, records: pa.RecordBatch, name: str) -> list[str]:
        if name not in records.schema.names:
            return [""] * records.num_rows
        values: list[Any] = records.column(name).to_pylist()
        return ["" if value is None else str(value) for value in values]


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)
