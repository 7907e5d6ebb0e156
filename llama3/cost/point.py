"""One thing that can be asked about: a format, a batch and a context on a device, and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from llama3.cost.bound import Bounds
from llama3.cost.gpus import Gpu
from llama3.cost.layout import GpuLayout
from llama3.cost.pareto import front
from llama3.cost.question import Format, Question
from llama3.model.needs import size

FREE = 0.1
"""Share of a device's memory that is left to activations, libraries and gaps."""


@dataclass
class Point:
    """`batch` answers of `context` tokens in a format, on a device or several that share the work.

    measured: seconds of a step; prompt_measured: seconds from a prompt of context - 1 tokens, alone, to its answer's
    first token. why: why it is not measured; on_front: whether no other point of its device and context beats it, None
    where it is not compared
    """

    gpu: str
    format: Format
    batch: int
    context: int
    bounds: Bounds
    measured: float | None = None
    prompt_measured: float | None = None
    why: str | None = None
    on_front: bool | None = None

    @property
    def weights(self) -> float:
        """Bytes of each device."""
        return self.bounds.footprint.resident / self.bounds.layout.count

    @property
    def cache(self) -> float:
        """Bytes of each device, for all answers."""
        return self.batch * self._cache_of_one

    @property
    def available(self) -> float:
        """Bytes of each device that weights and cache may take."""
        return (1 - FREE) * self.bounds.gpu.memory

    @property
    def max_batch(self) -> int:
        """Answers of this context for which there is room."""
        return max(0, math.floor((self.available - self.weights) / self._cache_of_one))

    @property
    def fits(self) -> bool:
        return self.batch <= self.max_batch

    @property
    def note(self) -> str:
        """Why it has no figures, or none that were measured."""
        if self.fits:
            return self.why or ""
        needed, there = size(int(self.weights + self.cache)), size(int(self.available))
        return f"does not fit: {needed} needed, {there} there"

    @property
    def predicted(self) -> float:
        return self.bounds.step(self.batch, self.context).seconds

    @property
    def prompt_predicted(self) -> float:
        return self.bounds.prompt(self.context - 1).seconds

    @property
    def seconds(self) -> float:
        """Of a step, as well as it is known."""
        return self.predicted if self.measured is None else self.measured

    @property
    def prompt_seconds(self) -> float:
        return self.prompt_predicted if self.prompt_measured is None else self.prompt_measured

    @property
    def prompt_every(self) -> float:
        """Seconds that each prompt takes where one follows the other."""
        return self.bounds.prompts(self.context - 1).seconds if self.prompt_measured is None else self.prompt_measured

    @property
    def _cache_of_one(self) -> float:
        return self.bounds.footprint.cache * self.context / self.bounds.layout.count


def points_of(question: Question, name: str, gpu: Gpu, layouts: Iterable[GpuLayout]) -> Iterator[Point]:
    """Everything that is asked for on one kind of device. A batch that gives no micro-batch an answer is left out."""
    wanted = product(question.formats, layouts, question.contexts, question.batches)
    for format, layout, context, batch in wanted:
        if batch >= layout.microbatches:
            yield Point(name, format, batch, context, Bounds(question.model.config, format.footprint, gpu, layout))


def mark_front(points: Iterable[Point]) -> None:
    """Compares points of one device and one context: another context is other work. Where some of them were measured,
    those only: a prediction promises more."""
    groups: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        if point.fits:
            groups.setdefault((point.gpu, point.context), []).append(point)
    for fitting in groups.values():
        group = [point for point in fitting if point.measured is not None] or fitting
        found = front([(point.seconds, point.batch / point.seconds) for point in group])
        for point, on_front in zip(group, found, strict=True):
            point.on_front = on_front
