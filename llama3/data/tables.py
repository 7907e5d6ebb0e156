"""Tables in parts: a folder of numbered Parquet files, which are read one after the other as one table."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.data.columns import printable
from llama3.errors import DataError

UNREADABLE = DataError.declare(
    "L3-DAT-110",
    "cannot be read as Parquet",
    why="{error}",
    fix="get the file again, or remove what it is part of and run again what made it",
)

ENDING = ".parquet"


def part_name(number: int) -> str:
    """The file of a part; their names sort as their numbers do."""
    return f"{number:06}{ENDING}"


class Table:
    """The rows of all parts in a folder, in order. No more than one part is open at a time."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError (L3-DAT-110) where there is no part, or the first cannot be read."""
        self.folder = folder
        self.files = sorted(folder.glob(f"*{ENDING}"))
        if not self.files:
            raise UNREADABLE(printable(str(folder)), error="it is no folder with Parquet files")
        self.schema: pa.Schema = open_parquet(self.files[0]).schema_arrow

    def __len__(self) -> int:
        return self._starts[-1]

    def parts(self) -> Iterator[ParquetPart]:
        """The files, opened one after the other."""
        return map(open_parquet, self.files)

    def batches(self, batch_size: int = 1 << 16, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, in pieces that never hold two row groups: memory does not grow with the size of rows."""
        for file in self.parts():
            yield from batches(file, batch_size, columns)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All of it."""
        return pa.concat_tables(map(_valid, self.parts(), repeat(columns)))

    def at(self, name: str, rows: np.ndarray) -> pa.Array:
        """A column at some rows (ascending); row groups that hold none of them are not read."""
        found = [pa.array([], self.schema.field(name).type)]
        for number in sorted({bisect_right(self._starts, row) - 1 for row in rows.tolist()}):
            start, end = self._starts[number : number + 2]
            here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
            found += column_at(open_parquet(self.files[number]), name, here)
        return pa.concat_arrays(found)

    @cached_property
    def _starts(self) -> list[int]:
        """The number of the first row of each part, and of all rows."""
        return [0, *accumulate(file.metadata.num_rows for file in self.parts())]


def _valid(file: ParquetPart, columns: list[str] | None) -> pa.Table:
    table = file.read(columns)
    with file.told():
        table.validate(full=True)
    return table


def column_at(file: ParquetPart, name: str, rows: np.ndarray) -> Iterator[pa.Array]:
    """A column at some rows (ascending) of one file, by row group; of others nothing is read."""
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        if len(here):
            column = file.read_row_group(group, columns=[name]).column(name)
            with file.told():
                column.validate(full=True)
            yield column.take(pa.array(here)).combine_chunks()
        start = end


def batches(file: ParquetPart, batch_size: int = 1 << 16, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, never of two row groups together: whoever writes a corpus bounds the bytes of a group, so
    that memory does not grow with the size of documents."""
    for group in range(file.num_row_groups):
        for records in file.iter_batches(batch_size, row_groups=[group], columns=columns):
            with file.told():
                records.validate(full=True)  # a wrong bit may leave a page that unpacks, and text that is none
            yield records


class ParquetPart(pq.ParquetFile):
    """A Parquet file whose damage is told by its name, also where it is met only while rows are read."""

    def __init__(self, path: Path) -> None:
        self._name = printable(str(path))
        with self.told():
            # Arrow opens no name that is not UTF-8; Python does.
            given = path if self._name == str(path) else path.open("rb")
            super().__init__(given, page_checksum_verification=True)

    @contextmanager
    def told(self) -> Iterator[None]:
        """What is raised within is told as damage of the file."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise UNREADABLE(self._name, error=(str(error) or type(error).__name__).splitlines()[0]) from error

    def iter_batches(self, *args: Any, **named: Any) -> Iterator[pa.RecordBatch]:
        with self.told():
            rows = super().iter_batches(*args, **named)
        while True:
            with self.told():  # not around the yield: what the reader of the rows raises is no damage
                records = next(rows, None)
            if records is None:
                return
            yield records

    def read(self, *args: Any, **named: Any) -> pa.Table:
        with self.told():
            return super().read(*args, **named)

    def read_row_group(self, *args: Any, **named: Any) -> pa.Table:
        with self.told():
            return super().read_row_group(*args, **named)


def open_parquet(path: Path) -> ParquetPart:
    """A Parquet file; DataError where it is missing or damaged, now or when it is read."""
    return ParquetPart(path)
