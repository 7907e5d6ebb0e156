"""How long an update takes on GPUs: products, attention, passes over memory, exchanges, the pipeline's bubble, AdamW.

    step = (microbatches x (products + attention + passes) x the fullest rank's share + exchanges that are waited for)
             x (1 + bubble) + what exchanges behind computation take longer than it + AdamW

A product of an [M, K] and a [K, N] matrix runs at a share of the data sheet's rate that falls where one of the three
is small: products x M/(M+knee) x K/(K+knee) x N/(N+knee). Legend: D model dim, Q query channels, K key channels, F FFN
dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama3.cost.gpus import FactorType, Gpu
from llama3.model.config import ModelConfig
from llama3.training.estimate import Cost, StepShape
from llama3.training.parallel import Dims

ADAMW_BYTES = 28
"""Read and written of each parameter: weight, gradient and two moments are read, all but the gradient are written."""
HOP = 5e-6
"""Seconds from one rank of an exchange to the next, an estimate; a collective goes round all of its ranks."""
BACKWARD = 2.0
"""Operations of a product's backward pass over those of its forward pass; of attention 2.5, which computes the scores
again."""
ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the data sheet's rates that real kernels and networks reach. `make bench-planner` fits these to
    published runs, and tells the error on each run of a fit to the others.

    products: of large products; knee: the size at which a product is half as fast as a large one
    attention: of attention's products; link: of the bytes a second between GPUs
    memory: of the bandwidth, in passes over memory (eager operations, which pass several times, reach less)
    overlap: of computation, what can run beside an exchange
    """

    products: float = 0.602
    knee: float = 200.0
    attention: float = 0.241
    link: float = 0.782
    memory: float = 0.8
    overlap: float = 0.8


ON_GPU = Efficiency()
"""As fitted to published runs."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of an update, by what they are spent on."""

    products: float
    attention: float
    passes: float
    exchanges: float
    bubble: float
    exposed: float
    optimizer: float

    @property
    def total(self) -> float:
        return (
            self.products + self.attention + self.passes + self.exchanges + self.bubble + self.exposed + self.optimizer
        )


def step_time(
    model: ModelConfig,
    dims: Dims,
    step: StepShape,
    costs: dict[str, Cost],
    together: Cost,
    gpu: Gpu,
    efficiency: Efficiency,
    precision: FactorType = "bf16",
) -> StepTime:
    """Of a layout.

    costs: of the strategies by their axes; together: `combined(costs.values())`
    """
    forwards = 1 + (step.recompute == "full")
    share = step.microbatches * together.work
    rate = gpu.rate(precision)
    products = share * (forwards + BACKWARD) * _products(model, dims, step, rate, efficiency)
    attention = (
        share * (forwards + ATTENTION_BACKWARD) * _attention(model, step, min(rate, gpu.rate("bf16")), efficiency)
    )
    passes = share * _passed(model, step) / (gpu.bandwidth * efficiency.memory)
    waits = behind = 0.0
    for axis, cost in costs.items():
        rate, round_trip = link_rate(gpu, dims, axis) * efficiency.link, HOP * _hops(dims, axis)
        waits += cost.sent / rate + cost.messages * round_trip
        behind += cost.behind / rate + cost.messages_behind * round_trip
    busy = products + attention + passes
    moments = ADAMW_BYTES * model.num_params() * together.weights * together.states
    return StepTime(
        products=products,
        attention=attention,
        passes=passes,
        exchanges=waits,
        bubble=together.bubble * (busy + waits),
        exposed=max(0.0, behind - efficiency.overlap * busy),
        optimizer=moments / (gpu.bandwidth * efficiency.memory),
    )


def link_rate(gpu: Gpu, dims: Dims, axis: str) -> float:
    """Bytes a second that a rank sends along an axis, in one direction. Ranks of one node use its links; a group over
    several nodes sends through as many network adapters as it has ranks in a node. Infinite where nothing is known."""
    inner = {"tp": 1, "cp": dims.tp, "pp": dims.tp * dims.cp, "dp": dims.tp * dims.cp * dims.pp}[axis]
    inside = gpu.link / 2 if gpu.link else math.inf
    if inner * getattr(dims, axis) <= gpu.node:
        return inside
    neighbours = 1 if axis == "pp" else max(1, gpu.node // inner)
    return min(inside, neighbours * gpu.network) if gpu.network else inside


def _hops(dims: Dims, axis: str) -> int:
    """From rank to rank until an exchange along an axis is done. What cuts weights along dp does so along cp too."""
    sizes = {"tp": dims.tp - 1, "cp": dims.cp - 1, "pp": 1, "dp": dims.dp * dims.cp - 1}
    return sizes[axis]


def _products(model: ModelConfig, dims: Dims, step: StepShape, rate: float, efficiency: Efficiency) -> float:
    """Seconds of the forward products of a whole microbatch and the whole model, at the speed of a rank's parts."""
    dim, queries, keys = model.dim, model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    rows, cut = step.tokens / dims.cp, dims.tp
    # Inputs, outputs, the parts of a rank, and how many of them there are.
    matrices = [
        (dim, queries + 2 * keys, dim, (queries + 2 * keys) / cut, model.n_layers),
        (queries, dim, queries / cut, dim, model.n_layers),
        (dim, 2 * model.ffn_dim, dim, 2 * model.ffn_dim / cut, model.n_layers),
        (model.ffn_dim, dim, model.ffn_dim / cut, dim, model.n_layers),
        (dim, model.vocab_size, dim, model.vocab_size / cut, 1),
    ]

    def reached(*sizes: float) -> float:
        return efficiency.products * math.prod(size / (size + efficiency.knee) for size in sizes)

    weighed = (count * i * o / reached(rows, part_i, part_o) for i, o, part_i, part_o, count in matrices)
    return 2 * step.tokens * sum(weighed) / rate


def _attention(model: ModelConfig, step: StepShape, rate: float, efficiency: Efficiency) -> float:
    """Seconds of the forward scores and sums of a whole microbatch and the whole model: a token sees half its row."""
    pairs = step.tokens * (step.seq_len + 1) / 2
    return 4 * pairs * model.n_layers * model.n_heads * model.head_dim / (rate * efficiency.attention)


def _passed(model: ModelConfig, step: StepShape) -> float:
    """Bytes that norms, rotation, the gate and the residual additions read and write in a microbatch, forward, and
    twice that backward; with the loss in float32."""
    dim, keys = model.dim, model.n_kv_heads * model.head_dim
    layer = step.stream * 6 * dim + step.width * (4 * dim + 2 * (dim + keys) + 3 * model.ffn_dim)
    forwards = {"none": 1, "selective": 1.5, "full": 2}[step.recompute]
    return step.tokens * ((forwards + 2) * model.n_layers * layer + 5 * 4 * model.vocab_size)
