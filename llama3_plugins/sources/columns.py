"""Columns by name, of the sources whose files have some."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from llama3.errors import DataError, did_you_mean

NO_COLUMN = DataError.declare("L3-SRC-011", "no column {column!r}", why="{near}")
SAME_COLUMNS = DataError.declare(
    "L3-SRC-034",
    "{count} columns are called {column!r}",
    why="which of them is meant cannot be known",
    fix="give them different names",
)
OTHER_SEPARATORS = ";\t|,"


def require_columns(options: BaseModel, names: Sequence[str], where: str) -> None:
    """Raises DataError where there is no column of the text (L3-SRC-011, with what there is instead) or none of an
    address or a date that the user names, and where one of them is there twice (L3-SRC-034). `options` have the names
    of columns as `text`, `url` and `date`."""
    for kind in ("text", "url", "date"):
        column = getattr(options, kind)
        if column not in names and (kind == "text" or kind in options.model_fields_set):
            raise NO_COLUMN(where, column=column, near=_near(column, names))
        if (count := names.count(column)) > 1:
            raise SAME_COLUMNS(where, column=column, count=count)


def _near(column: str, names: Sequence[str]) -> str:
    if not any(map(str.strip, names)):
        return "there is no header"
    signs = [sign for sign in OTHER_SEPARATORS if sign in names[0]]
    if len(names) == 1 and signs:
        return f"the header {names[0]!r} is one field; it may be separated by {signs[0]!r} (separator)"
    return did_you_mean(column, names) or f"columns: {', '.join(names)}"
