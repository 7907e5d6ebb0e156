"""Rows of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama3.errors import DataError

NOT_JSON = DataError.declare("L3-DLG-005", "not JSON", why="{error}")
NOT_AN_OBJECT = DataError.declare("L3-DLG-009", "not a JSON object")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file. Raises DataError with the line's number for anything that is not an object."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise NOT_JSON(f"{path.name}:{number}", error=error) from None
            if not isinstance(row, dict):
                raise NOT_AN_OBJECT(f"{path.name}:{number}")
            yield row


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file; equal rows give equal bytes."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
