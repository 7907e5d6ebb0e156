"""Layouts of a mesh [TP, CP, PP, DP] for a training step on so many GPUs, and what speaks against each.

A layout is sizes of the four axes. How it is run is a *way*: options of its strategies, rows of a microbatch, and what
the backward pass computes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

from llama3.config.schema import STRATEGIES, Axis
from llama3.cost.gpus import Gpu
from llama3.errors import ConfigError, DoesNotFit, Problem
from llama3.model.config import ModelConfig
from llama3.plugins.registry import Registry
from llama3.training.estimate import Cost, Recompute, StepShape
from llama3.training.parallel import Dims, ParallelStrategy, checked, estimated, offers

UNEVEN_BATCH = ConfigError.declare(
    "L3-PLN-010",
    "{rows} rows of a step do not divide over {ranks} ranks along dp",
    why="each takes whole rows, and as many as the others",
    fix="choose a dp among the divisors of {rows}, or another batch",
)
TOO_FULL = DoesNotFit.declare(
    "L3-PLN-011",
    "the fullest rank needs {needed}, {over} more than the {there} that a GPU has to give",
    why="{parts}",
    fix="{fix}",
)

AXES: tuple[Axis, ...] = ("tp", "cp", "pp", "dp")
"""Inner to outer, as layouts are written."""
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
FREE = 0.05
"""Share of the memory on a GPU's data sheet that is left to libraries and gaps. One that is sold with 80 GB has 85.5e9
bytes, so this leaves an eighth of what is there."""
MOST_ROWS, ENOUGH_TOKENS = 16, 1 << 15
"""Rows of a microbatch, and tokens of one on a rank: more make products no faster, so they are not tried."""


@dataclass(frozen=True)
class Workload:
    """What is to be trained, and on what.

    batch: rows of a step over all ranks; tokens: of the whole training; price: of one GPU an hour, if it is known
    free: share of a GPU's memory that is left to libraries and gaps
    strategies: what supplies an axis in place of its own strategy, by name
    """

    name: str
    model: ModelConfig
    gpu_name: str
    gpu: Gpu
    gpus: int
    seq_len: int
    batch: int
    tokens: float
    price: float | None
    registry: Registry
    free: float = FREE
    strategies: Mapping[str, str] = field(default_factory=dict)

    @property
    def room(self) -> float:
        """Bytes of a GPU that training may take."""
        return (1 - self.free) * self.gpu.memory

    @cached_property
    def _built(self) -> dict[tuple[str, tuple[tuple[str, Any], ...]], ParallelStrategy]:
        return {}

    def strategy(self, axis: Axis, options: Mapping[str, Any]) -> ParallelStrategy:
        """What supplies an axis, with options."""
        name, key = self.strategies.get(axis) or STRATEGIES[axis], tuple(options.items())
        if (name, key) not in self._built:
            self._built[name, key] = self.registry.build("parallelism", name, dict(options))
        return self._built[name, key]


@dataclass(frozen=True)
class Way:
    """How a layout is run."""

    dims: Dims
    options: Mapping[Axis, Mapping[str, Any]]
    rows: int
    step: StepShape


def all_dims(gpus: int) -> Iterator[Dims]:
    """Every way to write the number of GPUs as tp x cp x pp x dp."""
    sizes = [size for size in range(1, gpus + 1) if gpus % size == 0] if gpus < 1 << 20 else _divisors(gpus)
    for tp, cp in product(sizes, sizes):
        if gpus % (tp * cp) == 0:
            left = gpus // (tp * cp)
            yield from (Dims(tp=tp, cp=cp, pp=pp, dp=left // pp) for pp in sizes if left % pp == 0)


def _divisors(number: int) -> list[int]:
    small = [size for size in range(1, int(number**0.5) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})


def used_axes(dims: Dims) -> list[Axis]:
    """Those of several ranks: the ones that need a strategy."""
    return [axis for axis in AXES if getattr(dims, axis) > 1]


def problems_of(work: Workload, dims: Dims) -> list[Problem]:
    """What speaks against a layout whatever way it is run: its strategies, and a batch that it cannot share."""
    problems = [
        problem for axis in used_axes(dims) for problem in checked(axis, work.strategy(axis, {}), work.model, dims)
    ]
    if work.batch % dims.dp:
        problems.append(UNEVEN_BATCH.problem("parallelism.dp", rows=f"{work.batch:,}", ranks=f"{dims.dp:,}"))
    return problems


def ways_of(work: Workload, dims: Dims) -> Iterator[Way]:
    """Every way worth comparing in which a legal layout can be run, the least computed again first; those that a
    strategy refuses are left out."""
    own = work.batch // dims.dp
    axes = used_axes(dims)
    offered = [offers(axis, work.strategy(axis, {}), work.model, dims) for axis in axes]
    for chosen in product(*offered):
        options = dict(zip(axes, chosen, strict=True))
        if any(checked(axis, work.strategy(axis, given), work.model, dims) for axis, given in options.items()):
            continue
        rows = 1
        most = min(MOST_ROWS, max(1, ENOUGH_TOKENS * dims.cp // work.seq_len))
        while own % rows == 0 and rows <= most:
            step = StepShape(own // rows, rows * work.seq_len, work.seq_len)
            yield from (Way(dims, options, rows, replace(step, recompute=recompute)) for recompute in RECOMPUTE)
            rows *= 2


def costs_of(work: Workload, way: Way) -> dict[str, Cost]:
    """What each strategy of a way costs, by axis. Raises PluginError where one does not tell."""
    costs: dict[str, Cost] = {}
    for axis, options in way.options.items():
        costs[axis] = estimated(axis, work.strategy(axis, options), work.model, way.dims, way.step)
    return costs
