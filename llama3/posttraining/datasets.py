"""The order in which the loop reads examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from llama3.errors import DataError

NO_EXAMPLES = DataError.declare(
    "L3-DLG-004",
    "there are no examples to train on",
    fix="raise the number of prompts, samples or demonstrations",
)

T = TypeVar("T")


class Epochs(Generic[T]):
    """Examples for the loop: each epoch is a permutation by (seed, epoch); a step reads the next `batch` of the stream.

    `examples(step)` is a pure function of the step. The last step may be smaller: each example is used `epochs` times.
    Steps beyond it, which are read where data was left out, go on with a further pass.
    """

    def __init__(self, examples: Sequence[T], *, batch: int, epochs: int, seed: int) -> None:
        if not examples:
            raise NO_EXAMPLES("dataset")
        self._examples, self._batch, self._epochs, self._seed = examples, batch, epochs, seed
        self.steps = -(-len(examples) * epochs // batch)

    def examples(self, step: int) -> list[T]:
        """The examples of one step."""
        count = len(self._examples)
        end = count * self._epochs if step == self.steps - 1 else (step + 1) * self._batch
        stream = range(step * self._batch, end)
        orders = {epoch: self._order(epoch) for epoch in {position // count for position in stream}}
        return [self._examples[orders[position // count][position % count]] for position in stream]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))
