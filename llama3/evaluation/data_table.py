"""The stage `data_table`: what a round learnt from, as the paper's tables of data tell it (4.2.1, 4.2.2): of each
category its share, and the means of turns, tokens, tokens of context and tokens of the answer.

A category is the kind of task where a row names its family, else where the row came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llama3.artifacts import Artifact, Dialogs, Preferences, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.tasks.rows import read_rows
from llama3.tokenizer import Tokenizer

TOTAL = "total"
Measured = tuple[int, int, int]
"""Turns, tokens of the context and of the answer."""


@stage(output="report")
def data_table(
    tokenizer: Artifact, dialogs: Dialogs | None = None, preferences: Preferences | None = None, *, out: StageOutput
) -> None:
    """Metrics: {dialogs, preferences: {category: {examples, percent, turns, tokens, context, answer}}}, `total` last.
    `tokenizer` is any artifact that has one. Of a pair the answer is the mean of both."""
    vocabulary = Tokenizer.load(tokenizer.path)
    count = lambda text: len(vocabulary.encode(text))
    if dialogs is not None:
        out.metrics["dialogs"] = table_of((category(row), _dialog(row, count)) for row in _rows(dialogs, "dialogs"))
    if preferences is not None and (preferences.path / "preferences.jsonl").exists():
        rows = _rows(preferences, "preferences")
        out.metrics["preferences"] = table_of((category(row), _pair(row, count)) for row in rows)
    write_json_atomic(out.path / "results.json", out.metrics)


def category(row: Mapping[str, Any]) -> str:
    """What a row is told under."""
    return str(row.get("family") or row.get("source") or row.get("kind") or "other").partition(".")[0]


def table_of(rows: Iterator[tuple[str, Measured]]) -> dict[str, dict[str, float]]:
    """The table of rows by category, those of most examples first."""
    groups: defaultdict[str, list[Measured]] = defaultdict(list)
    for name, measured in rows:
        groups[name].append(measured)
    every = [measured for group in groups.values() for measured in group]
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return {name: _means(group, len(every)) for name, group in [*ordered, (TOTAL, every)] if group}


def _means(group: list[Measured], all_rows: int) -> dict[str, float]:
    n = len(group)
    turns, context, answer = (sum(column) / n for column in zip(*group, strict=True))
    figures = {"percent": 100 * n / all_rows, "turns": turns, "tokens": context + answer, "context": context,
               "answer": answer}  # fmt: skip
    return {"examples": n, **{name: round(value, 2) for name, value in figures.items()}}


def _rows(artifact: Artifact, name: str) -> Iterator[dict[str, Any]]:
    return read_rows(artifact.file(f"{name}.jsonl"))


def _dialog(row: Mapping[str, Any], count: Callable[[str], int]) -> Measured:
    *context, answer = (str(message["content"]) for message in row["messages"])
    return len(row["messages"]), sum(map(count, context)), count(answer)


def _pair(row: Mapping[str, Any], count: Callable[[str], int]) -> Measured:
    context = sum(count(str(message["content"])) for message in row["messages"])
    return len(row["messages"]) + 1, context, (count(str(row["chosen"])) + count(str(row["rejected"]))) // 2
