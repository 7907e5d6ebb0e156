"""Prompts that are answered in pieces: what one process does with a piece, and in which words it is told to.

The answers to a piece are a function of the weights, the prompts of the piece, the sampling and the number of threads:
bit for bit, wherever and whenever it is computed. So it may be computed again, and elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from llama3.errors import LlamaError, Problem
from llama3.inference.completion import Completion, FinishReason
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling

if TYPE_CHECKING:
    import numpy.typing as npt


class PieceByPiece:
    """A `Generator` that answers `piece` prompts at a time, each as if it were the first."""

    def __init__(self, engine: Engine, piece: int) -> None:
        self._engine, self._piece = engine, piece

    def generate(self, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
        """As `Engine.generate`; all prompts are checked first."""
        self._engine.check(prompts, sampling)
        return [row for part in cut(prompts, self._piece) for row in answered(self._engine, part, sampling)]


def cut(prompts: Sequence[npt.ArrayLike], piece: int) -> Iterator[Sequence[npt.ArrayLike]]:
    """The pieces, in order."""
    return (prompts[start : start + piece] for start in range(0, len(prompts), piece))


def answered(engine: Engine, prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> list[list[Completion]]:
    """The answers to one piece, with the weights as they are now and without what the cache holds of earlier ones."""
    engine.reset()
    return engine.generate(prompts, sampling)


# -- in JSON, between processes ------------------------------------------------------------------------------------


def question(prompts: Sequence[npt.ArrayLike], sampling: Sampling) -> bytes:
    """A piece for another process."""
    row = asdict(sampling) | {"stop_ids": sorted(sampling.stop_ids)}
    return json.dumps({"prompts": [np.asarray(prompt).tolist() for prompt in prompts], "sampling": row}).encode()


def answer(engine: Engine, asked: bytes) -> bytes:
    """Its answers, or why there are none."""
    told = json.loads(asked)
    row = told["sampling"]
    row |= {"stop_ids": frozenset(row["stop_ids"]), "logit_bias": tuple(map(tuple, row["logit_bias"]))}
    try:
        found: dict[str, Any] = {"made": rows_of(answered(engine, told["prompts"], Sampling(**row)))}
    except LlamaError as error:
        found = {"problems": [asdict(problem) for problem in error.problems]}
    return json.dumps(found).encode()


def read_answer(told: bytes) -> list[list[Completion]]:
    """What `answer` says. Raises the LlamaError that it tells of."""
    found = json.loads(told)
    if "problems" in found:
        raise LlamaError.of(Problem.of_row(row) for row in found["problems"])
    return completions_of(found["made"])


def rows_of(completions: Sequence[Sequence[Completion]]) -> list[list[Any]]:
    """Answers as JSON values."""
    return [[[one.ids, one.logps, int(one.finish_reason)] for one in row] for row in completions]


def completions_of(rows: Sequence[Sequence[Any]]) -> list[list[Completion]]:
    """Answers of JSON values."""
    return [[Completion(ids, logps, FinishReason(reason)) for ids, logps, reason in row] for row in rows]
