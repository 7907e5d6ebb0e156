"""Columns by name, of the sources whose files have some."""

from __future__ import annotations

from collections.abc import Sequence

from llama3.errors import DataError, did_you_mean

NO_COLUMN = DataError.declare("L3-SRC-011", "no column {column!r}", why="{near}")


def require_column(column: str, names: Sequence[str], where: str) -> None:
    """Raises DataError (L3-SRC-011) with what there is instead."""
    if column not in names:
        raise NO_COLUMN(where, column=column, near=did_you_mean(column, names) or f"columns: {', '.join(names)}")
