"""Tasks of a user's file, one JSON object per line: `{"prompt": ..., "answer": ..., "check": ...}`.

    rewards: [{name: jsonl_tasks, path: questions.jsonl}]

`prompt` is text or a list of messages that ends with the user's. `check` says how what
llama3.tasks.extraction takes from a model's answer is compared with `answer`:

- exact: the same text
- integer, number: the same number; commas between digits are left out
- choice: the letter that it begins with, in brackets or not: B, (B), B), B. Paris
- regex: `answer` is a pattern (Python's `re`) that matches all of it; run in the sandbox, which ends it in time

One prompt in ten is held out, by its text; a row may say `"split": "train"` or `"held_out"` itself. The stage
that reads `post_training.data` chooses alike: given the same file, it does not learn what is asked here.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llama3.errors import DataError, Problem, did_you_mean
from llama3.rewards import (
    Example,
    Limits,
    Line,
    NotEnoughTasks,
    Program,
    Split,
    Task,
    by_split,
    contradictions,
    extract,
    read_lines,
    run_programs,
    told_contradictions,
)
from llama3_plugins.data_kinds.prompts import REWARD, task_of

NO_TASK = DataError.declare("L3-JSL-001", "a row of {kind} is no task", fix="give prompt and answer")
NO_ANSWER = DataError.declare("L3-JSL-002", "answer is {answer}", fix="give text or a number")
NO_CHECK = DataError.declare("L3-JSL-003", "unknown check {check}", why="{near}", fix="one of {checks}")
NO_PATTERN = DataError.declare("L3-JSL-004", "the pattern cannot be read", why="{error}")
NOT_COMPARABLE = DataError.declare("L3-JSL-005", "answer {answer!r} cannot be compared by {check}")

Check = Literal["exact", "integer", "number", "choice", "regex"]
CHECKS: tuple[str, ...] = get_args(Check)

_INTEGER = re.compile(r"[+-]?\d{1,40}")
_CHOICE = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:]|\s|$)")
_LIMITS = Limits(cpu_seconds=0.25)
_MATCH = "import re\ndef check(pattern, text): return re.fullmatch(pattern, text, re.DOTALL) is not None"


class JsonlTasksOptions(BaseModel):
    """Where the tasks are, and how answers are compared where a row does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="the file, one JSON object per line")
    check: Check = Field("exact", description="comparison of rows without a column `check`")

    @field_validator("path")
    @classmethod
    def _exists(cls, path: str) -> str:
        if not Path(path).is_file():
            raise ValueError(f"there is no file {path}")
        return path


class JsonlTasks:
    """A `TaskReward` (llama3.tasks.rewards). Raises DataError for a bad file, with line numbers."""

    def __init__(self, options: JsonlTasksOptions) -> None:
        self.check = options.check
        path = Path(options.path)
        lines = read_lines(path)
        problems = [problem for line in lines if (problem := _problem(line, path, self.check)) is not None]
        if problems:
            raise DataError.of(problems)
        for words in told_contradictions(contradictions(line.row for line in lines), str(path)):
            _tell(words)
        self._tasks = {split: _distinct(rows, path.stem) for split, rows in by_split(lines, path).items()}

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """`count` of the split's prompts, in an order by seed. Raises NotEnoughTasks."""
        found = self._tasks[split]
        if count > len(found):
            raise NotEnoughTasks(f"rewards.{REWARD}", split, len(found), count)
        return random.Random(f"{split}/{seed}").sample(found, count)

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """1.0 or 0.0 per answer; None for other rewards' tasks, and for rows without an answer."""
        scores: list[float | None] = [None] * len(answers)
        matched: dict[int, Program] = {}
        for i, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            columns = _columns(example)
            if columns.get("answer") is None:
                continue
            check, expected = columns.get("check", self.check), str(columns["answer"])
            if check == "regex":
                matched[i] = Program(_MATCH, "check", [[expected, extract(answer, "")]])
            else:
                text = extract(answer, expected)
                scores[i] = float(text != "" and _same(check, text, expected))
        for i, outcome in zip(matched, run_programs(list(matched.values()), _LIMITS), strict=True):
            scores[i] = float(outcome.values == [True])
        return scores


@cache
def _tell(words: str) -> None:
    """Once in a process, in which a run builds the reward for every stage."""
    logging.getLogger(__name__).warning(words)


def _distinct(lines: Sequence[Line], stem: str) -> list[Task]:
    """The different tasks; of equal rows the first."""
    tasks = {task.id: task for task in (task_of(line.row, stem) for line in reversed(lines))}
    return list(reversed(tasks.values()))


def _columns(example: Example) -> Mapping[str, Any]:
    check = example.get("check", {})
    return dict(check["data"]) if check.get("reward") == REWARD else {}


def _same(check: str, text: str, expected: str) -> bool:
    if check == "exact":
        return text == expected.strip()
    read = {"integer": _integer, "number": _number, "choice": _choice}[check]
    value = read(text)
    return value is not None and value == read(expected)


def _integer(text: str) -> int | None:
    text = _without_commas(text)
    return int(text) if _INTEGER.fullmatch(text) else None


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(_without_commas(text))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _choice(text: str) -> str | None:
    found = _CHOICE.match(text.strip())
    return found.group(1).upper() if found else None


def _without_commas(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d)", "", text.strip())


def _problem(line: Line, path: Path, default: str) -> Problem | None:
    """What makes a row no task."""
    where = f"{path.name}:{line.number}"
    if line.row.kind != "prompts":
        return NO_TASK.problem(where, kind=line.row.kind)
    columns = line.row.columns
    answer, check = columns.get("answer"), columns.get("check", default)
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or not str(answer).strip():
        return NO_ANSWER.problem(where, answer=repr(answer))
    if check not in CHECKS:
        near = did_you_mean(str(check), CHECKS)
        return NO_CHECK.problem(where, check=repr(check), near=near, checks=list(CHECKS))
    if check == "regex":
        try:
            re.compile(str(answer))
        except re.error as error:
            return NO_PATTERN.problem(where, error=error)
    elif check != "exact" and not _same(check, str(answer), str(answer)):
        return NOT_COMPARABLE.problem(where, answer=answer, check=check)
    return None
