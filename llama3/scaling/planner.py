"""The planner: every legal layout in its fastest way that fits, ranked by the predicted time of a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from llama3.errors import ConfigError, DoesNotFit, LlamaError, Problem
from llama3.model.activations import KEPT_LOGITS
from llama3.model.needs import size
from llama3.scaling.layouts import TOO_FULL, Way, Workload, all_dims, costs_of, problems_of, ways_of
from llama3.scaling.memory import RankBytes, rank_bytes
from llama3.scaling.step_time import ON_GPU, Efficiency, StepTime, step_time
from llama3.training.estimate import Cost, combined
from llama3.training.parallel import Dims

HOUR, DAY = 3600.0, 86400.0
CHUNK_LOGITS = 1 << 28
"""Scores over the vocabulary that a GPU computes at once (llama3.model.score)."""


@dataclass(frozen=True)
class Predicted:
    """A layout in one way, with what it takes."""

    work: Workload
    way: Way
    costs: dict[str, Cost]
    efficiency: Efficiency = ON_GPU

    @property
    def dims(self) -> Dims:
        return self.way.dims

    @cached_property
    def together(self) -> Cost:
        return combined(self.costs.values())

    @cached_property
    def bytes(self) -> RankBytes:
        limits = {"chunk_logits": CHUNK_LOGITS, "kept_logits": KEPT_LOGITS}
        return rank_bytes(self.work.model, self.way.step, self.together, **limits)

    @property
    def fits(self) -> bool:
        return self.bytes.total <= self.work.room

    @cached_property
    def time(self) -> StepTime:
        work = self.work
        return step_time(work.model, self.dims, self.way.step, self.costs, self.together, work.gpu, self.efficiency)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return self.time.total

    @property
    def tokens_per_second(self) -> float:
        """Of one GPU."""
        return self.work.batch * self.work.seq_len / self.seconds / self.work.gpus

    @property
    def mfu(self) -> float:
        """Operations of the model, attention over the full square, as a share of the GPU's bf16 rate."""
        return self._mfu(self.work.seq_len)

    @property
    def mfu_causal(self) -> float:
        """The same, attention over the pairs that a causal mask leaves."""
        return self._mfu(self.work.seq_len / 2)

    def _mfu(self, seen: float) -> float:
        return self.tokens_per_second * self.work.model.flops_per_token(round(seen)) / self.work.gpu.rate("bf16")

    @property
    def days(self) -> float:
        """Of the whole training, if nothing stops it."""
        return self.work.tokens / (self.tokens_per_second * self.work.gpus) / DAY

    @property
    def price(self) -> float | None:
        """Of the whole training; None where nobody knows what a GPU costs."""
        return None if self.work.price is None else self.days * DAY / HOUR * self.work.gpus * self.work.price


def plan(work: Workload, efficiency: Efficiency = ON_GPU) -> list[Predicted]:
    """Of every legal layout that fits its fastest way, fastest first."""
    found = (best_way(work, dims, efficiency) for dims in all_dims(work.gpus) if not problems_of(work, dims))
    return sorted((one for one in found if one is not None and one.fits), key=lambda one: one.seconds)


def best_way(work: Workload, dims: Dims, efficiency: Efficiency = ON_GPU) -> Predicted | None:
    """The fastest way that fits, or the one that needs least where none does; None where no strategy has one."""
    fastest = leanest = None
    done: tuple[object, int] | None = None
    for way in ways_of(work, dims):
        if done == (id(way.options), way.rows):
            continue  # the same fits with less computed again
        one = Predicted(work, way, costs_of(work, way), efficiency)
        if one.fits:
            done = (id(way.options), way.rows)
            fastest = one if fastest is None or one.seconds < fastest.seconds else fastest
        elif fastest is None and (leanest is None or one.bytes.total < leanest.bytes.total):
            leanest = one
    return fastest or leanest


def predictions(work: Workload, ways: Iterable[Way], efficiency: Efficiency = ON_GPU) -> Iterator[Predicted]:
    """What each way takes."""
    for way in ways:
        yield Predicted(work, way, costs_of(work, way), efficiency)


def shortage(one: Predicted) -> Problem | None:
    """That a layout does not fit in its leanest way, by how much, and what would help."""
    if one.fits:
        return None
    needed, there = one.bytes.total, one.work.room
    parts = {name: getattr(one.bytes, name) for name in one.bytes.__slots__}
    largest = sorted(parts, key=lambda name: -parts[name])[:3]
    told = ", ".join(f"{name} {size(int(parts[name]))}" for name in largest)
    return TOO_FULL.problem(
        "parallelism",
        needed=size(int(needed)),
        over=size(int(needed - there)),
        there=size(int(there)),
        parts=told,
        fix=_HELP[largest[0]],
    )


def refusals(work: Workload) -> Iterator[tuple[Dims, list[Problem]]]:
    """Every layout that is not ranked, and what speaks against it."""
    for dims in all_dims(work.gpus):
        problems = problems_of(work, dims)
        if not problems and (best := best_way(work, dims)) is not None and (short := shortage(best)) is not None:
            problems = [short]
        if problems:
            yield dims, problems


def none_fits(work: Workload, dims: Dims | None = None) -> LlamaError:
    """That no layout can be used: of those that are legal the one that needs least, or what is against the first."""
    legal = [one for one in ([dims] if dims else all_dims(work.gpus)) if not problems_of(work, one)]
    best = [found for found in (best_way(work, one) for one in legal) if found is not None]
    if best:
        least = min(best, key=lambda one: one.bytes.total)
        short = shortage(least)
        assert short is not None
        more = 1 << math.ceil(math.log2(work.gpus * least.bytes.total / work.room))
        return DoesNotFit.of([replace(short, fix=f"use about {more:,} GPUs, or one with more memory; or {short.fix}")])
    return ConfigError.of(problems_of(work, dims or Dims(dp=work.gpus)))


_HELP = {
    "weights": "raise tp or pp, or let dp cut weights (fsdp)",
    "gathered": "raise tp or pp, or let dp give weights back (fsdp with reshard: true)",
    "gradients": "raise tp or pp, or let dp cut gradients (fsdp)",
    "optimizer": "raise dp with a strategy that cuts moments (fsdp), or tp or pp",
    "activations": "raise tp or cp, which cut what microbatches keep; more pp does not",
    "keys": "raise tp, which cuts keys and values; cp gathers them",
    "head": "raise tp, which cuts the vocabulary",
}
