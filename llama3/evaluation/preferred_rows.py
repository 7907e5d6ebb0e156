"""Pairs that a reward is audited on, or rankings, in any columns that the preference stages read, with `strength`,
`category` and `lang`, which group them, or without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from llama3.errors import DataError, Problem
from llama3.tasks.data_kind import Message, data_kind
from llama3.tasks.user_files import rows_of
from llama3.tasks.user_rows import parse_row

GROUPS = ("strength", "category", "lang")
"""Columns that say what a pair belongs to: how clearly the better answer is better, what the prompt is about."""
COMPARED = frozenset({"chosen", "rejected", "ranking"})
"""Columns of which a row of pairs has one at least."""
MOST_TOLD = 20
NO_PAIRS = DataError.declare("L3-RWA-001", "there is no pair to audit on", fix="give a .jsonl with chosen and rejected")
ODD_GROUP = DataError.declare("L3-RWA-002", "{column} is {value!r}", fix="give text or a number, or leave it out")
NOT_A_USER = DataError.declare(
    "L3-RWA-003", "the prompt does not end with what a user says", fix="end it so, or drop the row"
)
NO_ANSWERS = DataError.declare(
    "L3-RWA-004",
    "none of {count} rows has two answers to compare",
    why="columns are {columns}",
    fix="give pairs (prompt, chosen, rejected) or rankings; tasks, whose answers a verifier checks, are none",
)
PAIRS = "pairs"


@dataclass(frozen=True, slots=True)
class PreferredPair:
    """A prompt, the better and the worse answer, its groups by column, and where its row stands."""

    context: tuple[Message, ...]
    prompt: str
    better: str
    worse: str
    groups: Mapping[str, str] = field(default_factory=dict)
    where: str = ""


def read_pairs(path: Path) -> list[PreferredPair]:
    """All pairs of a file; a ranking gives one for every two of its answers. Raises DataError with all problems."""
    pairs: list[PreferredPair] = []
    problems: list[Problem] = []
    rows = list(rows_of(path))
    columns = [row.keys() for _, row in rows if not isinstance(row, DataError)]
    if columns and all(COMPARED.isdisjoint(names) for names in columns):
        raise NO_ANSWERS(path, count=len(rows), columns=", ".join(dict.fromkeys(chain.from_iterable(columns))))
    for number, row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            pairs += _pairs(row, f"{path.name}:{number}")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems[:MOST_TOLD])
    if not pairs:
        raise NO_PAIRS(path)
    return pairs


def _pairs(row: Mapping[str, Any], where: str) -> Iterator[PreferredPair]:
    groups = {name: _group(row[name], name, where) for name in GROUPS if row.get(name) is not None}
    plain = {name: value for name, value in row.items() if name not in GROUPS}
    parsed = parse_row({PAIRS: data_kind(PAIRS)}, plain, where)
    *context, last = parsed.prompt
    if last["role"] != "user":
        raise NOT_A_USER(where)
    for better, worse in itertools.combinations(parsed.answers, 2):
        yield PreferredPair(tuple(context), str(last["content"]), better, worse, groups, where)


def contrary_rows(pairs: Sequence[PreferredPair]) -> list[tuple[str, str]]:
    """For each prompt of which two answers are better than each other, both ways, where the first two rows of them
    stand."""
    first: dict[tuple[object, str, str], str] = {}
    found: dict[object, tuple[str, str]] = {}
    for pair in pairs:
        asked = (*((message["role"], message["content"]) for message in pair.context), pair.prompt)
        first.setdefault((asked, pair.better, pair.worse), pair.where)
        if other := first.get((asked, pair.worse, pair.better)):
            found.setdefault(asked, (other, pair.where))
    return list(found.values())


def _group(value: object, column: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ODD_GROUP(where, column=column, value=value)
    return str(value)
