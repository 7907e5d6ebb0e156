"""Files as users upload them, with questions whose answers are known: a small table in one of several formats."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

_REGIONS = ("north", "south", "east", "west")
_ITEMS = ("apples", "bricks", "candles", "drums", "envelopes", "forks", "gloves", "hats")
_COLUMNS = ("item", "region", "amount")
_NAMES = ("sales", "orders", "stock", "returns")
Row = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file, a question about it, and the number that answers it."""

    name: str
    text: str
    question: str
    answer: int


def upload(rng: random.Random) -> Upload:
    """A table of 12 to 30 rows in a format of FORMATS."""
    rows = [(rng.choice(_ITEMS), rng.choice(_REGIONS), rng.randint(2, 499)) for _ in range(rng.randint(12, 30))]
    ending = rng.choice(sorted(FORMATS))
    name = f"{rng.choice(_NAMES)}.{ending}"
    region, item = rng.choice(rows)[1], rng.choice(rows)[0]
    asked = (
        (f"What is the sum of all amounts of the region {region}?", sum(n for _, r, n in rows if r == region)),
        (f"What is the sum of all amounts of {item}?", sum(n for i, _, n in rows if i == item)),
        ("How large is the sum of all amounts?", sum(n for *_, n in rows)),
        ("What is the largest amount minus the smallest?", max(n for *_, n in rows) - min(n for *_, n in rows)),
    )
    question, answer = rng.choice(asked)
    return Upload(name, FORMATS[ending](rows), f"I have uploaded the file {name}. {question}", answer)


def _separated(mark: str, rows: Sequence[Row]) -> str:
    return "".join(f"{mark.join(map(str, row))}\n" for row in (_COLUMNS, *rows))


def _objects(rows: Sequence[Row]) -> list[dict[str, str | int]]:
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def _xml(rows: Sequence[Row]) -> str:
    lines = (f'  <row item="{item}" region="{region}" amount="{amount}"/>\n' for item, region, amount in rows)
    return f"<rows>\n{''.join(lines)}</rows>\n"


def _html(rows: Sequence[Row]) -> str:
    cells = ("".join(f"<td>{value}</td>" for value in row) for row in (_COLUMNS, *rows))
    return "<table>\n" + "".join(f"<tr>{row}</tr>\n" for row in cells) + "</table>\n"


FORMATS = {
    "csv": lambda rows: _separated(",", rows),
    "tsv": lambda rows: _separated("\t", rows),
    "txt": lambda rows: "".join(f"{amount} {item}, {region}\n" for item, region, amount in rows),
    "json": lambda rows: json.dumps(_objects(rows), indent=1),
    "jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in _objects(rows)),
    "xml": _xml,
    "html": _html,
    "py": lambda rows: f"ROWS = {_objects(rows)!r}\n",
}
