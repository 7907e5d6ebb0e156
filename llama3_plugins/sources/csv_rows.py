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
from typing import TextIO

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
from llama3_plugins.sources.endings import TABLES
from llama3_plugins.sources.packed import BROKEN, Damaged, opened
from llama3_plugins.sources.recoded import encoding_of, in_utf8, is_utf8

LONG_ROW = DataError.declare(
    "L3-SRC-032",
    "a row of more than {limit} characters",
    why="a quote that opens a field and never closes makes the rest of the file one row",
    fix="close the quote, double it where it is part of the text, or say that quotes mean nothing (quote: null)",
)
CUT_OFF = DataError.declare("L3-SRC-033", "cannot be read to its end", why="{error}")

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
        "quarantine", description="a file that breaks off: quarantine it, or keep the documents before the break"
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
            with opened(Path(path)) as stored:
                encoding = encoding_of(stored)
                file = stored if is_utf8(encoding) else in_utf8(stored, encoding)
                # What is no UTF-8 costs its row and not the file.
                text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
                yield from self._documents(text, shard.location, origin_of(options, path), collector)
        except (*BROKEN, UnicodeDecodeError) as error:  # the latter of a file in UTF-16 that is none
            if options.damaged == "quarantine":
                raise CUT_OFF(shard.location, error=error) from error
            collector.reject(shard.location, "cut_off", str(error))
        require_unchanged(shard)
        yield from collector.rest()

    def _documents(self, file: TextIO, location: str, origin: str, collector: Collector) -> Iterator[DocumentBatch]:
        options = self.options
        rows = self._rows(file, location, collector)
        _, names = next(rows, (0, []))
        require_columns(options, names, location)
        for line, row in rows:
            where = f"{location}:{line}"
            if len(row) != len(names):
                collector.reject(where, "broken_csv", f"{len(row)} fields; the header has {len(names)}")
                continue
            fields = dict(zip(names, row, strict=True))
            data = fields[options.text].encode("utf-8", "surrogateescape")
            if len(data) > options.max_document_bytes:
                told = f"{len(data)} bytes; the limit is {options.max_document_bytes}"
                collector.reject(where, "too_large", told, len(data))
            elif (text := decode(data, where, collector)) is not None:
                url, date = fields.get(options.url, ""), fields.get(options.date, "")
                yield from collector.add(text, url or where, origin=f"{origin}:{line}", date=date)

    def _rows(self, file: TextIO, location: str, collector: Collector) -> Iterator[tuple[int, list[str]]]:
        """(line on which it begins, from 1; fields) of every row that has some; what is no row is rejected."""
        options = self.options
        lines = _Lines(file, max(LONGEST, options.max_document_bytes), location)
        separator = options.separator or ("\t" if ".tsv" in Path(location.lower()).suffixes else ",")
        reader = csv.reader(
            lines,
            delimiter=separator,
            quotechar=options.quote,
            quoting=csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE,
            escapechar=options.escape,
            strict=True,
        )
        is_after_break = False
        while True:
            begun = lines.begin_row()
            try:
                row = next(reader, None)
            except csv.Error as error:
                _pass_over(lines, separator, options)
                count = lines.number - begun + 1
                told = f"{error}" if count == 1 else f"{error}; {count} lines, to line {lines.number}"
                collector.reject(f"{location}:{begun}", "broken_csv", told, count)
                is_after_break = True
                continue
            if row is None:
                return
            # The count of quotes may mislead where a row breaks; its last quote still closes somewhere.
            is_after_break = is_after_break and any(options.quote in field for field in row if options.quote)
            if is_after_break:
                collector.reject(f"{location}:{begun}", "broken_csv", "may be the rest of the row before it")
            elif row:
                yield begun, row


class _Lines:
    """The lines of a file with their ends. Raises DataError where one row has more than `limit` characters of them."""

    def __init__(self, file: TextIO, limit: int, location: str) -> None:
        self.limit, self._left = limit, limit
        self._file, self._location = file, location
        self.number = 0
        """Of the last line, from 1."""
        self.row: list[str] = []
        """The lines of a row so far."""

    def begin_row(self) -> int:
        """The number of its first line."""
        self._left, self.row = self.limit, []
        return self.number + 1

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._left + 1)
        if len(line) > self._left:
            raise LONG_ROW(self._location, limit=self.limit)
        if not line:
            raise StopIteration
        self._left -= len(line)
        self.number += 1
        self.row.append(line)
        return line


def _pass_over(lines: _Lines, separator: str, options: CsvOptions) -> None:
    """Reads the rest of a row that broke. It goes on where its quotes are odd in number and the last of them closes no
    field, for then the next lines are still inside of one."""
    count, is_closing = 0, True
    text = "".join(lines.row)
    while options.quote and text:
        plain = re.sub(f"{re.escape(options.escape)}.", "", text, flags=re.DOTALL) if options.escape else text
        _, quote, after = plain.rpartition(options.quote)
        if quote:
            count += plain.count(quote)
            is_closing = not after or after[0] in f"{separator}\r\n"
        if count % 2 == 0 or is_closing:
            return
        text = next(lines, "")
