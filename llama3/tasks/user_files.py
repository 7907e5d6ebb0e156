"""The rows of a user's file, whatever its format: JSON lines, one JSON array, CSV (with a header) or Parquet.

What the format cannot say is not made up: a CSV cell is text, but `true` and `false` of a label, and the JSON of a cell
that holds messages or a ranking; an empty cell, and a null of a table, is no cell. Columns of other shapes than TRL's
get its names (llama3.tasks.row_shapes).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama3.errors import DataError
from llama3.tasks.row_shapes import in_trl_names

UNREADABLE = DataError.declare("L3-OWN-001", "cannot be read", why="{error}", fix="check post_training.data")
NOT_JSON = DataError.declare(
    "L3-OWN-011", "not a line of JSON", why="{error}", fix="write JSON lines, one JSON array, CSV or Parquet"
)
NOT_AN_OBJECT = DataError.declare("L3-OWN-012", "not a JSON object")
HALF_A_CHARACTER = DataError.declare(
    "L3-OWN-070",
    "half of a character (a lone surrogate) is no text",
    why="the row was cut within a character such as an emoji",
    fix="mend or drop the row",
)
OTHER_FORMAT = DataError.declare(
    "L3-OWN-071", "this is {format}", fix="give JSON lines, one JSON array, CSV with a header, or Parquet"
)
RAGGED = DataError.declare(
    "L3-OWN-072", "the row has {found} cells, the header {wanted}", fix="quote cells with commas"
)
NOT_A_CHAT = DataError.declare(
    "L3-OWN-074",
    "the cell of {column} is no list in JSON",
    why="{error}",
    fix="write the cell with json.dumps; Python's str of a list is not JSON",
)

Found = tuple[int, dict[str, Any] | DataError]
"""The number of a row (of its line, where rows are lines), and the row or what is wrong with it."""

_MARK = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK": "a zip archive or a spreadsheet",
    b"ARROW1": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"SQLite format": "a database",
}
_ARRAY = re.compile(rb"\s*\[\s*\{")
_LISTS = frozenset({"messages", "conversations", "ranking"})
"""Columns that hold nothing but lists."""
_CHAT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")
"""How a cell begins that holds messages."""


def rows_of(path: Path) -> Iterator[Found]:
    """The rows of a file in order. Raises DataError for a file that cannot be read, or is of another format."""
    try:
        with path.open("rb") as file:
            head = file.read(64).removeprefix(_MARK)
        for start, name in _MAGIC.items():
            if head.startswith(start):
                raise OTHER_FORMAT(path, format=name)
        for number, row in _read(path, head):
            yield number, _checked(row, f"{path.name}:{number}") if isinstance(row, dict) else row
    except OSError as error:
        raise UNREADABLE(path, error=error) from None


def _read(path: Path, head: bytes) -> Iterator[Found]:
    if head.startswith(_PARQUET):
        return _parquet(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(path, "," if path.suffix.lower() == ".csv" else "\t")
    if _ARRAY.match(head):
        return _array(path)
    return _lines(path)


def _lines(path: Path) -> Iterator[Found]:
    """Lines that are not blank; a byte order mark goes."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            raw = raw.removeprefix(_MARK) if number == 1 else raw
            if raw.strip():
                yield number, _object(raw, f"{path.name}:{number}")


def _object(raw: bytes, where: str) -> dict[str, Any] | DataError:
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return NOT_JSON(where, error=error)
    return value if isinstance(value, dict) else NOT_AN_OBJECT(where)


def _array(path: Path) -> Iterator[Found]:
    try:
        values = json.loads(path.read_bytes().removeprefix(_MARK).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NOT_JSON(path, error=error) from None
    for number, value in enumerate(values, 1):
        yield number, value if isinstance(value, dict) else NOT_AN_OBJECT(f"{path.name}:{number}")


def _csv(path: Path, delimiter: str) -> Iterator[Found]:
    try:
        text = path.read_bytes().removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UNREADABLE(path, error=error) from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        for cells in reader:
            number = reader.line_num
            if len(cells) == len(header):
                yield number, _cells(header, cells, f"{path.name}:{number}")
            elif cells:
                yield number, RAGGED(f"{path.name}:{number}", found=len(cells), wanted=len(header))
    except csv.Error as error:
        raise UNREADABLE(path, error=error) from None


def _cells(header: list[str], cells: list[str], where: str) -> dict[str, Any] | DataError:
    try:
        return {name: _cell(name, cell, where) for name, cell in zip(header, cells, strict=True) if cell}
    except DataError as error:
        return error


def _cell(column: str, cell: str, where: str) -> Any:
    if column == "label" and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    if column not in _LISTS and not _CHAT.match(cell):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise NOT_A_CHAT(where, column=column, error=error) from None


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                # Only what JSON can say: a date becomes its text, so that rows can be written as they were.
                plain = json.loads(json.dumps(row, default=str))
                yield number, {name: value for name, value in plain.items() if value is not None}
    except pa.ArrowException as error:
        raise UNREADABLE(path, error=error) from None


def _checked(row: dict[str, Any], where: str) -> dict[str, Any] | DataError:
    """The row in the columns that kinds know; an error for what is no text."""
    if not _is_text(row):
        return HALF_A_CHARACTER(where)
    try:
        return in_trl_names(row, where)
    except DataError as error:
        return error


def _is_text(value: Any) -> bool:
    """Whether no string within holds half of a character."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    except RecursionError:
        return True  # too deep for any kind, which says so
    return True
