"""Tables of comma- or tab-separated values (RFC 4180), plain or compressed: a header, and every row is a document.

A quoted field may hold separators, quotes and ends of lines. Text is UTF-8; a file in UTF-16 or UTF-32, as spreadsheets
write, is read as what it is.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, model_validator

from llama3.errors import DataError
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    decode,
    origin_of,
    require_unchanged,
    shards_of,
)
from llama3_plugins.sources.columns import require_columns
from llama3_plugins.sources.csv_steps import InStep, Row, Signs
from llama3_plugins.sources.endings import TABLES
from llama3_plugins.sources.packed import BROKEN, Damaged, opened, reason_of
from llama3_plugins.sources.recoded import encoding_of, in_utf8, is_utf8

LONG_ROW = DataError.declare(
    "L3-SRC-032",
    "a row of more than {limit} characters",
    why="a quote that opens a field and never closes makes the rest of the file one row",
    fix="close the quote, double it where it is part of the text, or say that quotes mean nothing (quote: null)",
)
CUT_OFF = DataError.declare("L3-SRC-033", "cannot be read to its end", why="{error}")
BROKEN_HEADER = DataError.declare(
    "L3-SRC-035", "the header is broken", why="{error}", fix="mend the quotes of the first row"
)

LONGEST = 64 << 20
"""Characters of a row, where documents may not be longer."""

csv.field_size_limit(sys.maxsize)  # rows are bounded where they are read, and documents by max_document_bytes


class CsvOptions(FileOptions):
    """Options of the `csv` source."""

    source: str = Field("csv", min_length=1, description="label of the documents, weighted by data.mix")
    text: str = Field("text", description="column of the text")
    url: str = Field("url", description="column of the document's address; default: file:line")
    date: str = Field("date", description="column of the document's date")
    separator: str | None = Field(
        None, min_length=1, max_length=1, description="what stands between fields; default: a tab in .tsv, else a comma"
    )
    quote: str | None = Field(
        '"',
        min_length=1,
        max_length=1,
        description="what stands around fields that hold separators; null: nothing does",
    )
    escape: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="what stands before a quote or separator that is part of the text; default: quotes are doubled",
    )
    damaged: Damaged = Field(
        "quarantine",
        description="a file that is cut off or damaged: quarantine it, or keep the documents that are sure",
    )

    @model_validator(mode="after")
    def _tells_signs_apart(self) -> CsvOptions:
        separators = [self.separator] if self.separator else [",", "\t"]
        signs = [*separators, *filter(None, (self.quote, self.escape))]
        if len(set(signs)) < len(signs) or {"\r", "\n"} & set(signs):
            raise ValueError("separator, quote and escape must differ from each other and from ends of lines")
        return self


class CsvSource:
    """A shard is a file."""

    def __init__(self, options: CsvOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        return shards_of(self.options, TABLES)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        path = shard.files[0].path
        try:
            with opened(Path(path), options.damaged) as stored:
                encoding = encoding_of(stored)
                file = stored if is_utf8(encoding) else in_utf8(stored, encoding)
                # What is no UTF-8 costs its row and not the file.
                text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
                yield from self._documents(text, shard.location, origin_of(options, path), collector)
        except (*BROKEN, UnicodeDecodeError) as error:  # the latter of a file in UTF-16 that is none
            if options.damaged == "quarantine":
                raise CUT_OFF(shard.location, error=error) from error
            collector.reject(shard.location, reason_of(error), str(error))
        require_unchanged(shard)
        yield from collector.rest()

    def _documents(self, file: TextIO, location: str, origin: str, collector: Collector) -> Iterator[DocumentBatch]:
        options = self.options
        separator = options.separator or ("\t" if ".tsv" in Path(location.lower()).suffixes else ",")
        lines = _Lines(file, max(LONGEST, options.max_document_bytes), location)
        rows = self._rows(lines, Signs(separator, options.quote, options.escape), location)
        names = next(rows, Row(0, [], [])).fields
        for row in rows:
            where = f"{location}:{row.number}"
            if row.broken:
                collector.reject(where, "broken_csv", row.broken, len(row.lines))
                continue
            fields = dict(zip(names, row.fields, strict=True))
            data = fields[options.text].encode("utf-8", "surrogateescape")
            if len(data) > options.max_document_bytes:
                told = f"{len(data)} bytes; the limit is {options.max_document_bytes}"
                collector.reject(where, "too_large", told, len(data))
            elif (text := decode(data, where, collector)) is not None:
                url, date = fields.get(options.url, ""), fields.get(options.date, "")
                yield from collector.add(text, url or where, origin=f"{origin}:{row.number}", date=date)

    def _rows(self, lines: _Lines, signs: Signs, location: str) -> Iterator[Row]:
        """The header, and every row behind it that has fields, or that is broken."""
        reader = signs.reader(lines)
        steps: InStep | None = None
        while True:
            try:
                row = _next_row(reader, lines)
            except BROKEN:  # the file is cut off there, and what was read may be kept
                yield from steps.rest() if steps is not None else ()
                raise
            if row is None:
                break
            if steps is not None:
                yield from steps.take(row, lambda row=row: _pass_over(row, lines, signs))  # type: ignore[misc]
            elif row.broken:
                raise BROKEN_HEADER(f"{location}:{row.number}", error=row.broken)
            else:
                require_columns(self.options, row.fields, location)
                steps = InStep(signs, len(row.fields), lines.give_back)
                yield row
        if steps is None:
            require_columns(self.options, [], location)
        else:
            yield from steps.rest()


def _next_row(reader: Any, lines: _Lines) -> Row | None:
    """The next row that has fields, or that is broken."""
    while True:
        number = lines.begin_row()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            return Row(number, lines.row, [], str(error))
        if fields is None:
            return None
        if fields:
            return Row(number, lines.row, fields)


class _Lines:
    """The lines of a file with their ends. Raises DataError where one row has more than `limit` characters of them."""

    def __init__(self, file: TextIO, limit: int, location: str) -> None:
        self.limit, self._left = limit, limit
        self._file, self._location = file, location
        self.number = 0
        """Of the last line, from 1."""
        self.row: list[str] = []
        """The lines of a row so far."""
        self._back: list[str] = []

    def begin_row(self) -> int:
        """The number of its first line."""
        self._left, self.row = self.limit, []
        return self.number + 1

    def give_back(self, lines: list[str]) -> None:
        """Lines that were read last are read again."""
        self._back = lines + self._back
        self.number -= len(lines)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._back.pop(0) if self._back else self._file.readline(self._left + 1)
        if len(line) > self._left:
            raise LONG_ROW(self._location, limit=self.limit)
        if not line:
            raise StopIteration
        self._left -= len(line)
        self.number += 1
        self.row.append(line)
        return line


def _pass_over(row: Row, lines: _Lines, signs: Signs) -> None:
    """Reads the rest of a row whose quotes broke. It goes on where they are odd in number and the last of them closes
    no field, for then the next lines are still inside of one."""
    if row.fields or not row.broken:
        return
    count, is_closing = 0, True
    text = "".join(row.lines)
    while signs.quote and text:
        plain = re.sub(f"{re.escape(signs.escape)}.", "", text, flags=re.DOTALL) if signs.escape else text
        _, quote, after = plain.rpartition(signs.quote)
        if quote:
            count += plain.count(quote)
            is_closing = not after or after[0] in f"{signs.separator}\r\n"
        if count % 2 == 0 or is_closing:
            break
        text = next(lines, "")
    if len(row.lines) > 1:
        row.broken += f"; {len(row.lines)} lines, to line {lines.number}"
