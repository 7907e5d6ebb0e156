"""Parquet files with a column of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from llama3.errors import DataError
from llama3.sources import (
    BATCH_BYTES,
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    decode,
    is_text,
    open_parquet,
    origin_of,
    pieces_of,
    plain,
    require_unchanged,
    shards_of,
)
from llama3_plugins.sources.columns import require_columns
from llama3_plugins.sources.endings import PARQUET
from llama3_plugins.sources.packed import Damaged

CUT_OFF = DataError.declare("L3-SRC-012", "cannot be read to its end", why="{error}")
NO_TEXT = DataError.declare("L3-SRC-013", "column {column!r} holds {type}, not text")

ROWS = 1024
PIECE = 256 << 20
"""Bytes of a file above which it is read in several shards, and of each of them."""


class ParquetOptions(FileOptions):
    """Options of the `parquet` source."""

    source: str = Field("parquet", min_length=1, description="label of the documents, weighted by data.mix")
    text: str = Field("text", description="column of the text")
    url: str = Field("url", description="column of the document's address; default: file:row")
    date: str = Field("date", description="column of the document's date")
    damaged: Damaged = Field(
        "quarantine", description="a file with a damaged row group: quarantine it, or keep the other groups"
    )


class ParquetSource:
    """A shard is a file, or some row groups of a large one."""

    def __init__(self, options: ParquetOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        return [piece for shard in shards_of(self.options, PARQUET) for piece in self._pieces(shard)]

    def _pieces(self, shard: ShardRef) -> list[ShardRef]:
        if shard.bytes <= PIECE:
            return [shard]
        try:
            spans, sizes = _group_spans(open_parquet(Path(shard.files[0].path)))
        except DataError:  # whoever reads it will say what is wrong
            return [shard]
        return pieces_of(shard, spans, sizes)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        path = Path(shard.files[0].path)
        file = open_parquet(path)
        names = file.schema_arrow.names
        require_columns(options, names, shard.location)
        columns = [name for name in (options.text, options.url, options.date) if name in names]
        origin = origin_of(options, path)
        begin, end, first_row = shard.span or (0, file.num_row_groups, 0)
        for group in range(begin, end):
            row = first_row
            first_row += file.metadata.row_group(group).num_rows
            records = file.iter_batches(_rows_at_once(file), row_groups=[group], columns=columns)
            while True:
                try:
                    some = next(records, None)
                except DataError as error:
                    if options.damaged == "quarantine":
                        raise CUT_OFF(shard.location, error=error.__cause__) from error
                    told = f"row group {group}, rows {row} to {first_row - 1}: {error.__cause__}"
                    collector.reject(shard.location, "cut_off", told, first_row - row)
                    break
                if some is None:
                    break
                yield from self._documents(some, shard.location, origin, row, collector)
                row += some.num_rows
        require_unchanged(shard)
        yield from collector.rest()

    def _documents(
        self, records: pa.RecordBatch, location: str, origin: str, first_row: int, collector: Collector
    ) -> Iterator[DocumentBatch]:
        """Text goes through bytes, because Parquet's strings may hold anything."""
        options = self.options
        column = plain(records.column(options.text))
        if not is_text(column.type) and column.null_count < len(column):
            raise NO_TEXT(location, column=options.text, type=column.type)
        urls, dates = _strings(records, options.url), _strings(records, options.date)
        for i, value in enumerate(column.cast(pa.large_binary())):
            where = f"{location}:{first_row + i}"
            data = value.as_py()
            if data is None:
                collector.reject(where, "no_text", "null")
            elif len(data) > options.max_document_bytes:
                collector.reject(
                    where, "too_large", f"{len(data)} bytes; the limit is {options.max_document_bytes}", len(data)
                )
            elif (text := decode(data, where, collector)) is not None:
                yield from collector.add(text, urls[i] or where, origin=f"{origin}:{first_row + i}", date=dates[i])


def _group_spans(file: pq.ParquetFile) -> tuple[list[tuple[int, ...]], list[int]]:
    """(first row group, the one after the last, rows before) of pieces of PIECE bytes or one group, and their bytes."""
    spans: list[tuple[int, ...]] = []
    sizes: list[int] = []
    begun = size = rows = before = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        size += sum(group.column(column).total_compressed_size for column in range(group.num_columns))
        rows += group.num_rows
        if size >= PIECE or number + 1 == file.num_row_groups:
            spans.append((begun, number + 1, before))
            sizes.append(size)
            begun, size, before = number + 1, 0, rows
    return spans, sizes


def _rows_at_once(file: pq.ParquetFile) -> int:
    """Rows of about one batch of documents, by the mean of the group of the largest rows."""
    groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    return max(1, min(ROWS, int(BATCH_BYTES / max(largest, 1))))


def _strings(records: pa.RecordBatch, name: str) -> list[str]:
    """A column of metadata as strings: what cannot be read of it is "", and costs no document."""
    if name not in records.schema.names:
        return [""] * records.num_rows
    return [_string(value) for value in records.column(name)]


def _string(value: pa.Scalar) -> str:
    try:
        found = value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
    except (ValueError, OverflowError, pa.ArrowException):  # a date that Python has none for
        return ""
    return "" if found is None else str(found)
