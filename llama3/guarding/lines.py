"""Lines of the files that guards learn from, all that are none told at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama3.errors import Problem
from llama3.tasks.rows import NOT_AN_OBJECT, NOT_JSON


def read_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a row stands (file:line), and the row. What is not UTF-8, no JSON or no object is added to `problems`."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path.name}:{number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                problems.append(NOT_JSON.problem(where, error=error))
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                problems.append(NOT_AN_OBJECT.problem(where))
