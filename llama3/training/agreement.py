"""What is wrong on one rank stops all: a rank that raised alone would leave the others waiting for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from llama3.errors import LlamaError, Problem
from llama3.training.parallel import ParallelContext


def problems_of_all(problems: Iterable[Problem], context: ParallelContext) -> list[Problem]:
    """The problems of all ranks, each once, on every rank. All must call it together."""
    told = context.gather([asdict(problem) for problem in problems], "world")
    return list(dict.fromkeys(Problem.of_row(row) for rows in told for row in rows))


def refuse_together(problems: Iterable[Problem], context: ParallelContext, error: type[LlamaError]) -> None:
    """Raise the problems of all ranks as one error, on every rank, where there are any. All must call it together."""
    if found := problems_of_all(problems, context):
        raise error.of(found)
