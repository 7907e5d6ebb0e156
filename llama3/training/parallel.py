"""Parallel strategies: what a plugin supplies for one axis of the device mesh, and how the core applies them.

The mesh is ordered inner to outer [tp, cp, pp, dp]. A run on several processes is launched by torchrun:

    torchrun --nproc-per-node 2 -m llama3 run config.yaml --set parallelism.dp=fsdp

Every process runs the same program; only rank 0 writes.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from llama3.config.schema import ParallelismSection
from llama3.errors import ConfigError, DoesNotFit, Problem

if TYPE_CHECKING:
    from llama3.model.batch import Batch
    from llama3.model.config import ModelConfig
    from llama3.plugins.registry import Registry

Axis = Literal["tp", "cp", "pp", "dp"]


@dataclass(frozen=True, slots=True)
class Dims:
    """Size of each axis of the mesh."""

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int = 1

    @property
    def world(self) -> int:
        return self.tp * self.cp * self.pp * self.dp


@dataclass(frozen=True, slots=True)
class StepShape:
    """The size of one optimizer step, for estimates."""

    tokens: int
    """Over all ranks."""
    microbatch_tokens: int
    """Of one forward and backward on one rank."""

    def microbatches(self, dims: Dims) -> int:
        """Forward and backward passes per rank."""
        return -(-self.tokens // (dims.dp * self.microbatch_tokens))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strategy costs, per rank and step."""

    memory: int
    """Bytes held: weights, gradients, optimizer moments and activations."""
    sent: int
    """Bytes sent."""
    bubble: float = 0.0
    """Share of the step in which the rank waits (pipelines)."""


@dataclass(frozen=True)
class ParallelContext:
    """Where this process stands. `mesh` is None in a single process."""

    device: torch.device
    dims: Dims = Dims()
    rank: int = 0
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints, logs and artifacts."""
        return self.rank == 0

    @property
    def dp_rank(self) -> int:
        """Which share of each step's examples this process takes."""
        return self.mesh.get_local_rank("dp") if self.mesh is not None else 0

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of `x` over the data-parallel ranks, in place; `x` itself in a single process."""
        if self.mesh is not None:
            dist.all_reduce(x, group=self.mesh.get_group("dp"))
        return x

    def reduce(self, numbers: Sequence[float], op: Literal["sum", "max"]) -> list[float]:
        """Numbers reduced one by one over all data-parallel ranks, through the CPU: a GPU is not waited for."""
        if self.mesh is None:
            return list(numbers)
        x = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(x, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op], group=self.mesh.get_group("dp"))
        return x.tolist()

    def sum_by_name(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Named numbers summed over all data-parallel ranks, each of which may know other names."""
        totals: dict[str, float] = {}
        for row in self._gather_text(json.dumps(numbers)):
            for name, number in json.loads(row).items():
                totals[name] = totals.get(name, 0.0) + number
        return totals

    def _gather_text(self, text: str) -> list[str]:
        """The texts (ASCII) of all data-parallel ranks, in their order."""
        if self.mesh is None:
            return [text]
        (longest,) = self.reduce([len(text)], "max")
        mine = torch.frombuffer(bytearray(text.ljust(int(longest)), "ascii"), dtype=torch.uint8)
        everyone = [torch.empty_like(mine) for _ in range(self.dims.dp)]
        dist.all_gather(everyone, mine, group=self.mesh.get_group("dp"))
        return [bytes(row.tolist()).decode("ascii") for row in everyone]

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.mesh is not None:
            dist.barrier()


@dataclass(frozen=True, slots=True)
class Microbatch:
    """One forward and backward. An empty one keeps the ranks in step."""

    batch: Batch


Loss = Callable[[Microbatch], Tensor]
"""The share of an update's loss that a microbatch contributes; its backward adds to the gradients."""


class Runner(Protocol):
    """Runs the forwards and backwards of one update, leaving gradients on the parameters."""

    def forward_backward(self, microbatches: Sequence[Microbatch], loss: Loss) -> None:
        """Every rank is given the same number of microbatches."""
        ...


class ParallelStrategy(Protocol):
    """One axis of the mesh. Subclass it to inherit the defaults written here."""

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        """What speaks against these sizes. Needs neither devices nor a process group."""
        return []

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """Memory, traffic and waiting per rank and step."""
        raise NotImplementedError

    def apply(self, model: nn.Module, context: ParallelContext) -> nn.Module:
        """Shard or wrap the model. Parameter names stay as they are."""
        return model

    def gathered(self, model: nn.Module) -> AbstractContextManager[None]:
        """Whole weights on every rank while the block runs, for work outside of `forward`, such as sampling. Every
        rank enters it."""
        return nullcontext()

    def shard_batch(self, batch: Batch, context: ParallelContext) -> Batch:
        """This rank's part of a microbatch; the identity unless the axis cuts sequences (cp)."""
        return batch

    def runner(self, model: nn.Module, context: ParallelContext) -> Runner | None:
        """A pipeline's own schedule (pp); None for the plain loop over microbatches."""
        return None


class MicrobatchRunner:
    """The plain runner: one microbatch after another."""

    def forward_backward(self, microbatches: Sequence[Microbatch], loss: Loss) -> None:
        for microbatch in microbatches:
            loss(microbatch).backward()


class Parallel:
    """The strategies of a run in the order in which the core applies them: pp, tp, cp, dp."""

    def __init__(self, context: ParallelContext, strategies: Mapping[Axis, ParallelStrategy] | None = None) -> None:
        self.context = context
        order: tuple[Axis, ...] = ("pp", "tp", "cp", "dp")
        self._strategies = [strategies[axis] for axis in order if axis in strategies] if strategies else []

    def apply(self, model: nn.Module) -> nn.Module:
        for strategy in self._strategies:
            model = strategy.apply(model, self.context)
        return model

    @contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for strategy in self._strategies:
                stack.enter_context(strategy.gathered(model))
            yield

    def shard_batch(self, batch: Batch) -> Batch:
        for strategy in self._strategies:
            batch = strategy.shard_batch(batch, self.context)
        return batch

    def runner(self, model: nn.Module) -> Runner:
        runners = (strategy.runner(model, self.context) for strategy in self._strategies)
        return next((runner for runner in runners if runner is not None), MicrobatchRunner())


def start(section: ParallelismSection, model: ModelConfig, device: torch.device, registry: Registry) -> Parallel:
    """Build the configured strategies, check them against the model and the launched world, and connect.

    Raises ConfigError where the sizes contradict each other and DoesNotFit where the world is of another size.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    strategy: ParallelStrategy = registry.build("parallelism", section.dp.name, section.dp.options)
    inner = section.tp * section.cp * section.pp
    dims = Dims(section.tp, section.cp, section.pp, section.dp.size or max(1, world // inner))
    problems = [
        Problem("L3-PAR-001", f"parallelism.{axis}", f"no plugin supplies {axis}", fix=f"set {axis}: 1")
        for axis in ("tp", "cp", "pp")
        if getattr(section, axis) > 1
    ]
    problems += strategy.check(model, dims)
    if problems:
        raise ConfigError(problems)
    if dims.world != world:
        what = f"needs {dims.world} processes, this run has {world}"
        fix = f"torchrun --nproc-per-node {dims.world} -m llama3 ..."
        raise DoesNotFit(Problem("L3-PAR-002", "parallelism", what, fix=fix))
    return Parallel(connect(dims, device), {"dp": strategy})


def connect(dims: Dims, device: torch.device) -> ParallelContext:
    """Join the process group that torchrun describes in the environment (once per process) and lay the mesh."""
    if "WORLD_SIZE" not in os.environ:
        return ParallelContext(device, dims)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    mesh = init_device_mesh(device.type, (dims.dp, dims.pp, dims.cp, dims.tp), mesh_dim_names=("dp", "pp", "cp", "tp"))
    return ParallelContext(device, dims, dist.get_rank(), mesh)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def state_bytes(model: ModelConfig) -> int:
    """Weights, gradients and AdamW's two moments in fp32."""
    return 16 * model.num_params()


def step_activation_bytes(model: ModelConfig, step: StepShape) -> int:
    """What one microbatch keeps for its backward in bf16 without rematerialisation, to about a third: per token and
    block the inputs of two norms and of every product, queries, keys and values."""
    kv_dim = model.n_kv_heads * model.head_dim
    per_token = model.n_layers * (6 * model.dim + 2 * kv_dim + 3 * model.ffn_dim)
    return 2 * step.microbatch_tokens * per_token


class GlobalStats:
    """`llama3.training.algorithm.Stats` over the ranks of a context."""

    def __init__(self, context: ParallelContext) -> None:
        self._context = context

    def sum(self, x: Tensor) -> Tensor:
        return self._context.all_reduce(x.clone())

    def moments(self, x_N: Tensor) -> tuple[Tensor, Tensor]:
        x_N = x_N.double()
        count, total = self.sum(torch.stack([x_N.new_tensor(float(x_N.numel())), x_N.sum()]))
        mean = total / count
        squares = self.sum(((x_N - mean) ** 2).sum())
        return mean.float(), (squares / (count - 1).clamp(min=1)).sqrt().float()

    def gather(self, x_N: Tensor) -> tuple[Tensor, slice]:
        rank = self._context.dp_rank
        lengths = x_N.new_zeros(self._context.dims.dp, dtype=torch.int64)
        lengths[rank] = len(x_N)
        ends = self.sum(lengths).cumsum(0).tolist()
        mine = slice(ends[rank] - len(x_N), ends[rank])
        everyone = x_N.new_zeros(ends[-1])
        everyone[mine] = x_N
        return self.sum(everyone), mine
