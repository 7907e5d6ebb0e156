"""Reward 1 for a verified answer and 0 otherwise: exact match after extraction, or unit tests in the sandbox.

Extraction, by kind of check:

- text: the first line, outer spaces and one final full stop removed
- integer: the same, then read as a whole number
- integers: the same, then read as a Python list of whole numbers
- unit tests: the content of the first ``` block if there is one, else the whole answer; results must equal the expected
  values, type included (`True` is not `1`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3.rewards import Exact, Example, Limits, Program, Split, Task, UnitTests, extract_code, families, run_programs

_INTEGER = re.compile(r"[+-]?\d{1,40}")


class VerifiableOptions(BaseModel):
    """Limits of the sandbox that runs unit tests."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: float = Field(1.0, gt=0, description="CPU time of one answer")
    memory_mb: int = Field(512, ge=64, description="address space of one answer")


class Verifiable:
    """A `TaskReward` (llama3.tasks.rewards) over llama3.tasks.families."""

    def __init__(self, options: VerifiableOptions) -> None:
        self.limits = Limits(cpu_seconds=options.cpu_seconds, memory_bytes=options.memory_mb << 20)

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """`count` distinct tasks of the split."""
        return families.tasks(split, count, seed)

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """1.0 or 0.0 per answer; None where the example carries no check, or another reward's."""
        scores: list[float | None] = [None] * len(answers)
        tested: dict[int, UnitTests] = {}
        for i, example in enumerate(examples):
            if "check" not in example:
                continue
            check = Task.from_json(example).check
            if isinstance(check, Exact):
                scores[i] = float(extract(check.kind, answers[i]) == extract(check.kind, check.expected))
            elif isinstance(check, UnitTests):
                tested[i] = check
        programs = [Program(extract_code(answers[i]), check.entry, check.calls) for i, check in tested.items()]
        outcomes = run_programs(programs, self.limits)
        for (i, check), outcome in zip(tested.items(), outcomes, strict=True):
            scores[i] = float(outcome.values is not None and _same(outcome.values, list(check.expected)))
        return scores


def extract(kind: str, answer: str) -> Any:
    """The comparable content of an answer to an exact check; NaN, which equals nothing, when there is none."""
    lines = answer.strip().splitlines()
    text = lines[0].strip().removesuffix(".") if lines else ""
    if kind == "integer":
        return int(text) if _INTEGER.fullmatch(text) else float("nan")
    if kind == "integers":
        if not (text.startswith("[") and text.endswith("]")):
            return float("nan")
        items = [item.strip() for item in text[1:-1].split(",")]
        return [int(item) for item in items] if all(map(_INTEGER.fullmatch, items)) else float("nan")
    return text or float("nan")


def _same(values: list[Any], expected: list[Any]) -> bool:
    """Equal in value and type, nested; JSON keeps 1, 1.0, true and "1" apart."""
    return json.dumps(values, sort_keys=True) == json.dumps(expected, sort_keys=True)
