"""Parallel strategies: what a plugin supplies for one axis of the device mesh, and how the core applies them.

The mesh is ordered inner to outer [tp, cp, pp, dp]. A run on several processes is launched by torchrun:

    torchrun --nproc-per-node 2 -m llama3 run config.yaml --set parallelism.dp=fsdp

Every process runs the same program. Rank 0 writes what is made; checkpoints are written by all.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from llama3.config.schema import Axis, ParallelismSection
from llama3.errors import ConfigError, DoesNotFit, PluginError, Problem
from llama3.model.compilation import compile_blocks, is_compiled
from llama3.model.remat import Rematerialisation, budget_of
from llama3.model.score import Microbatch
from llama3.model.shards import local
from llama3.model.transformer import Transformer
from llama3.plugins.asking import asking, called
from llama3.training import messages, replicas
from llama3.training.causes import is_told_elsewhere
from llama3.training.estimate import Cost, PipelineTurn, StepShape
from llama3.training.flight import FLIGHT
from llama3.training.joining import join
from llama3.training.replicas import Replicas

if TYPE_CHECKING:
    from llama3.model.config import ModelConfig
    from llama3.plugins.registry import Registry

OTHER_WORLD = DoesNotFit.declare(
    "L3-PAR-002",
    "needs {needed} processes, this run has {world}",
    fix="torchrun --nproc-per-node {needed} -m llama3 ...",
)

NO_PLACE = ConfigError.declare(
    "L3-PAR-014",
    "adapters (LoRA) cannot be trained where {strategy} cuts matrices over {ranks} ranks",
    why="it has no place for them (`places_adapters`)",
    fix="set parallelism.tp: 1 or name another strategy, or train all weights",
)

FAULTY = PluginError.declare(
    "L3-PAR-022",
    "the strategy {strategy} failed",
    why="its `{method}`: {error}",
    fix="tell its author, whose conformance test finds it (docs/plugins.md); or choose another strategy",
)

MESH: tuple[Axis, ...] = ("dp", "pp", "cp", "tp")
"""The mesh, outermost first: ranks that differ in the last axis only are neighbours."""

Group = Literal["batch", "loss", "model", "world"]
GROUPS: Mapping[Group, tuple[Axis, ...]] = {
    "batch": ("dp",),
    "loss": ("dp", "cp"),
    "model": ("pp", "cp", "tp"),
    "world": MESH,
}
"""The ranks that a reduction is over: those with other examples (batch), with other tokens too (loss: gradients are
sums over these), with other parts of one copy of the model (model), all."""


REPLICAS, SHARDS = "replicas", "shards"
"""The two levels of a loss mesh: copies of the weights, and the ranks that share one."""


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of MESH."""
        return tuple(getattr(self, axis) for axis in MESH)

    def members(self, group: Group) -> list[list[int]]:
        """The ranks of every group of a kind, in order."""
        inner = [MESH.index(axis) for axis in GROUPS[group]]
        outer = [axis for axis in range(len(MESH)) if axis not in inner]
        ranks = torch.arange(self.world).view(self.sizes).permute(*outer, *inner)
        return ranks.reshape(-1, math.prod(self.sizes[axis] for axis in inner)).tolist()


@dataclass(frozen=True)
class ParallelContext:
    """Where this process stands, and how it speaks with others. `mesh` is None in a single process."""

    device: torch.device
    dims: Dims = Dims()
    rank: int = 0
    mesh: DeviceMesh | None = None
    groups: Mapping[Group, dist.ProcessGroup] = field(default_factory=dict)
    """The groups of more than one rank."""
    replicas: Replicas | None = None
    """Other launches that share the examples of a step and may come and go; None: this one is all. What is reduced
    over `batch` is then reduced over these."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and artifacts, and commits checkpoints."""
        return self.rank == 0

    @property
    def dp_rank(self) -> int:
        """Which share of a step's examples this process takes. Ranks that share a model take the same."""
        if self.replicas is not None:
            return self.replicas.place
        return self.mesh.get_local_rank("dp") if self.mesh is not None else 0

    @property
    def dp_shares(self) -> int:
        """How many shares a step's examples are cut into."""
        return self.dims.dp if self.replicas is None else self.replicas.count

    def axis(self, axis: Axis) -> tuple[dist.ProcessGroup, int, int]:
        """The group of ranks that differ from this one in one axis of the mesh only, this one's place in it, and its
        size. Needs a mesh."""
        assert self.mesh is not None
        return self.mesh.get_group(axis), self.mesh.get_local_rank(axis), getattr(self.dims, axis)

    def loss_mesh(self, replicas: int = 1) -> DeviceMesh:
        """The ranks over which gradients are summed, as one axis of the mesh; with `replicas` as two, of which the
        inner one ("shards") has neighbours. Needs a mesh."""
        assert self.mesh is not None
        mesh = self.mesh["dp"] if self.dims.cp == 1 else self.mesh["loss"]
        return mesh if replicas == 1 else _two_levels(mesh, replicas)

    def all_reduce(self, x: Tensor, group: Group = "batch") -> Tensor:
        """The sum of `x` over a group, in place; `x` itself in a group of one."""
        if (others := self._others(group)) is not None:
            with FLIGHT.collective("all_reduce", group, x.shape):
                others.all_reduce(x)
        elif group in self.groups:
            with FLIGHT.collective("all_reduce", group, x.shape):
                dist.all_reduce(x, group=self.groups[group])
        return x

    def reduce(self, numbers: Sequence[float], op: Literal["sum", "max"], group: Group = "batch") -> list[float]:
        """Numbers reduced one by one over a group, through the CPU: a GPU is not waited for."""
        others = self._others(group)
        if others is None and group not in self.groups:
            return list(numbers)
        x = torch.tensor(numbers, dtype=torch.float64)
        if others is not None:
            with FLIGHT.collective("reduce", group, x.shape):
                others.all_reduce(x, op)
            return x.tolist()
        how = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op]
        with FLIGHT.collective("reduce", group, x.shape):
            dist.all_reduce(x, how, group=self.groups[group])
        return x.tolist()

    def gather(self, value: Any, group: Group) -> list[Any]:
        """The JSON values of all ranks of a group, in its order."""
        if (others := self._others(group)) is not None:
            with FLIGHT.collective("gather", group):
                return replicas.gather(value, others)
        return messages.gather(value, self.groups[group]) if group in self.groups else [value]

    def _others(self, group: Group) -> Replicas | None:
        """The launches that a group is, where there are any beside this one."""
        several = group == "batch" and self.replicas is not None and self.replicas.count > 1
        return self.replicas if several else None

    def sum_by_name(self, numbers: Mapping[str, float], group: Group = "batch") -> dict[str, float]:
        """Named numbers summed over a group, each rank of which may know other names."""
        totals: dict[str, float] = {}
        for row in self.gather(dict(numbers), group):
            for name, number in row.items():
                totals[name] = totals.get(name, 0.0) + number
        return totals

    def shared(self, tensors: Sequence[Tensor], axis: Axis, place: int) -> tuple[Tensor, ...]:
        """The tensors of the rank at a place of an axis, on every rank along it; what the others give is ignored."""
        group, _, _ = self.axis(axis)
        source = dist.get_global_rank(group, place)
        count = messages.broadcast(len(tensors), source, group)
        given = [*tensors, *[None] * count][:count]
        return tuple(messages.broadcast_tensor(tensor, source, self.device, group) for tensor in given)

    def barrier(self) -> None:
        """Wait until every process has come here."""
        if self.mesh is not None:
            with FLIGHT.collective("barrier", "world"):
                dist.barrier()


Loss = Callable[[Microbatch, Tensor | None], Tensor]
"""One forward of what this rank has of the model: all of it, or a pipeline's stage, which is called with the hidden
states x_TD that the stage before it returned. The last stage gives the microbatch's share of the update's loss, whose
backward adds to the gradients; an earlier one gives the hidden states for the next. Ranks that share the tokens or the
matrices of a microbatch compute the same loss."""
Columns = tuple[Tensor, ...]
Read = Callable[[Microbatch, Tensor | None], Tensor | Columns]
"""The same without gradient: the last stage gives columns with a row for each target."""


class Runner(Protocol):
    """Runs forwards and backwards over microbatches, of which every rank is given the same number."""

    def forward_backward(self, microbatches: Sequence[Microbatch], loss: Loss) -> None:
        """Those of one update, leaving gradients on the parameters. It may say before each backward pass whether
        another one follows (`Transformer.set_gradient_sync`), so that gradients are exchanged once."""
        ...

    def forward(self, microbatches: Sequence[Microbatch], read: Read) -> Sequence[Columns]:
        """What the last stage gives of each microbatch, on every rank."""
        ...


class ParallelStrategy(Protocol):
    """One axis of the mesh. Subclass it to inherit the defaults written here."""

    places_adapters: bool = False
    """Of a strategy along tp: whether `apply` cuts layers with adapters (`LoRALinear`) too. Others need not care."""

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        """What speaks against these sizes. Needs neither devices nor a process group."""
        return []

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """What is left to the fullest rank along this axis, and what it sends in a step. As `check`, it needs nothing
        but numbers: `llama3 plan` asks it for thousands of layouts. By default a strategy costs nothing."""
        return Cost()

    def choices(self, model: ModelConfig, dims: Dims) -> list[dict[str, Any]]:
        """Options that are worth comparing at these sizes, for `llama3 plan`."""
        return [{}]

    def turns(self, dims: Dims, step: StepShape) -> list[list[PipelineTurn]]:
        """What each rank along the axis does in a step, in order, where ranks take turns; nothing elsewhere. A chunk c
        of rank r is stage c x ranks + r of the model."""
        return []

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        """Cut the model, which has no storage yet, in place. Parameters keep their names; one that is cut becomes a
        `DTensor` of its whole shape. A pipeline takes away what other ranks have: it deletes layers and sets what
        stands outside of them to None. What cuts the rows of a forest says so (`model.multiple`, `model.rows`); what
        exchanges gradients during a backward pass can wait for the last one (`model.set_gradient_sync`)."""

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        """Asked when all backward passes of an update are done: add up over this axis what its ranks have learnt (dp),
        or whatever else is missing. Gradients along cp are the core's work, but for parameters cut over `loss`."""

    def runner(self, model: nn.Module, context: ParallelContext) -> Runner | None:
        """A pipeline's own schedule (pp); None for the plain loop over microbatches."""
        return None

    def replicas(self, context: ParallelContext) -> Replicas | None:
        """Other launches that train the same and may come and go (dp), which the loop then goes through every step
        with; None: there are none. Asked once, before the model is made; nobody need be there yet."""
        return None


class MicrobatchRunner:
    """The plain runner: the whole model, one microbatch after another."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def forward_backward(self, microbatches: Sequence[Microbatch], loss: Loss) -> None:
        for place, microbatch in enumerate(microbatches, start=1):
            share = loss(microbatch, None)
            self._model.set_gradient_sync(place == len(microbatches))
            share.backward()

    def forward(self, microbatches: Sequence[Microbatch], read: Read) -> Sequence[Columns]:
        return [cast(Columns, read(microbatch, None)) for microbatch in microbatches]  # there is no earlier stage


class Parallel:
    """The strategies of a run, and what each process does with its share of the model, in the order in which the core
    applies them: pp, tp, cp, rematerialisation, compilation, dp."""

    def __init__(
        self,
        context: ParallelContext,
        strategies: Mapping[Axis, ParallelStrategy] | None = None,
        section: ParallelismSection | None = None,
    ) -> None:
        self.context = context
        order: tuple[Axis, ...] = ("pp", "tp", "cp", "dp")
        self._strategies = {axis: strategies[axis] for axis in order if axis in strategies} if strategies else {}
        self._section = section

    def only(self, *axes: Axis) -> Parallel:
        """The strategies of these axes alone, in the same mesh."""
        return Parallel(self.context, {axis: found for axis, found in self._strategies.items() if axis in axes})

    def apply(self, model: Transformer) -> None:
        """Cut a model without storage, in place."""
        self._cut(model, "pp", "tp", "cp")
        if self._section is not None:
            model.remat = Rematerialisation(model.config, 0, self.context.dims.tp)
            if is_compiled(self._section.compile, self.context.device):
                compile_blocks(model, self.context.device)
        self._cut(model, "dp")
        if self._section is not None and model.remat is not None:  # what is free depends on what dp has left here
            model.remat.budget = self._budget(model, self._section.activation_bytes)

    def _cut(self, model: nn.Module, *axes: Axis) -> None:
        for axis in axes:
            if (strategy := self._strategies.get(axis)) is not None:
                with naming(axis, strategy, "apply"):
                    strategy.apply(model, self.context)

    def _budget(self, model: nn.Module, given: Literal["auto"] | int) -> int:
        """The same on every rank: ranks that share a block compute it again together."""
        if given != "auto":
            return given
        (most,) = self.context.reduce([-budget_of(model, self.context.device)], "max", "world")
        return -int(most)

    def runner(self, model: Transformer) -> Runner:
        for axis, strategy in self._strategies.items():
            with naming(axis, strategy, "runner"):
                if (runner := strategy.runner(model, self.context)) is not None:
                    return runner
        return MicrobatchRunner(model)

    def sum_gradients(self, model: nn.Module) -> None:
        """End the backward passes of an update: every gradient becomes that of all ranks. dp is first, pp last."""
        for axis, strategy in reversed(self._strategies.items()):
            with naming(axis, strategy, "sum_gradients"):
                strategy.sum_gradients(model, self.context)
        sum_over_cp(model.parameters(), self.context)

    def adapter_problems(self, where: str) -> list[Problem]:
        """What speaks against adapters in this layout."""
        return adapter_problems(self._strategies, self.context.dims, where)


def start(section: ParallelismSection, model: ModelConfig, device: torch.device, registry: Registry) -> Parallel:
    """Build the configured strategies, check them against the model and the launched world, and connect.

    Raises ConfigError with everything that speaks against them; DoesNotFit where only the world is of another size.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    dims = Dims(**section.sizes(world))
    strategies = build_strategies(section, world, registry)
    problems = [problem for axis, strategy in strategies.items() for problem in checked(axis, strategy, model, dims)]
    if dims.world != world:
        problems.append(OTHER_WORLD.problem("parallelism", needed=dims.world, world=world))
    if problems:
        raise ConfigError.of(problems)
    context = connect(dims, device)
    if (strategy := strategies.get("dp")) is not None:
        with naming("dp", strategy, "replicas"):
            context = replace(context, replicas=strategy.replicas(context))
    return Parallel(context, strategies, section)


def adapter_problems(strategies: Mapping[Axis, ParallelStrategy], dims: Dims, where: str) -> list[Problem]:
    """What speaks against adapters in a layout."""
    cutting = strategies.get("tp")
    if dims.tp == 1 or cutting is None or cutting.places_adapters:
        return []
    return [NO_PLACE.problem(where, strategy=type(cutting).__name__, ranks=dims.tp)]


def sum_over_cp(parameters: Iterable[nn.Parameter], context: ParallelContext) -> None:
    """Add up over cp the gradients of the parameters that are not cut over it: each rank has those of its tokens."""
    if context.dims.cp == 1:
        return
    group, _, _ = context.axis("cp")
    for parameter in parameters:
        names = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else None
        if parameter.grad is not None and not {"loss", SHARDS}.intersection(names or ()):
            dist.all_reduce(local(parameter.grad), group=group)


def build_strategies(section: ParallelismSection, world: int, registry: Registry) -> dict[Axis, ParallelStrategy]:
    """The strategies of a config in a world of so many processes, by their axes."""
    return {
        axis: registry.build("parallelism", slot.name, slot.options) for axis, slot in section.strategies(world).items()
    }


def connect(dims: Dims, device: torch.device) -> ParallelContext:
    """Join the process group that torchrun describes in the environment (once per process) and lay the mesh."""
    if "WORLD_SIZE" not in os.environ:
        return ParallelContext(device, dims)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    mesh, groups = _lay(dims, device.type)
    return ParallelContext(device, dims, dist.get_rank(), mesh, groups)


def checked(axis: Axis, strategy: ParallelStrategy, model: ModelConfig, dims: Dims) -> list[Problem]:
    """What a strategy says against the sizes. Raises PluginError where it does not answer as it should."""
    with naming(axis, strategy, "check"):
        found = strategy.check(model, dims)
        if not isinstance(found, list) or not all(isinstance(problem, Problem) for problem in found):
            raise TypeError(f"it returned {found!r}, not a list of problems")
        return found


def estimated(axis: Axis, strategy: ParallelStrategy, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
    """What a strategy costs. Raises PluginError where it does not answer as it should."""
    with naming(axis, strategy, "estimate"):
        found = strategy.estimate(model, dims, step)
        if not isinstance(found, Cost):
            raise TypeError(f"it returned {found!r}, not a Cost")
        if wrong := [name for name, value in asdict(found).items() if not 0 <= value < math.inf]:
            raise ValueError(f"{', '.join(wrong)}: below 0 or not finite")
        return found


def offers(axis: Axis, strategy: ParallelStrategy, model: ModelConfig, dims: Dims) -> list[dict[str, Any]]:
    """The options that a strategy would have compared. Raises PluginError where it does not answer as it should."""
    with naming(axis, strategy, "choices"):
        found = strategy.choices(model, dims)
        if not isinstance(found, list) or not all(isinstance(options, dict) for options in found):
            raise TypeError(f"it returned {found!r}, not a list of options")
        return found


def turned(axis: Axis, strategy: ParallelStrategy, dims: Dims, step: StepShape) -> list[list[PipelineTurn]]:
    """The schedule of a strategy's ranks. Raises PluginError where it does not answer as it should."""
    with naming(axis, strategy, "turns"):
        found = strategy.turns(dims, step)
        if not isinstance(found, list) or not all(isinstance(rank, list) for rank in found):
            raise TypeError(f"it returned {found!r}, not the turns of each rank")
        return found


@contextmanager
def naming(axis: Axis, strategy: ParallelStrategy, method: str) -> Iterator[None]:
    """Tells a fault of a strategy as that strategy's. Raises PluginError in its place."""
    where = f"parallelism.{axis}"

    def failed(error: str) -> PluginError:
        return FAULTY(where, strategy=called(strategy), method=method, error=error)

    with asking(where, method, failed, spares=is_told_elsewhere):
        yield


@cache
def _lay(dims: Dims, device: str) -> tuple[DeviceMesh, dict[Group, dist.ProcessGroup]]:
    """The mesh and the named groups of more than one rank; made once, because groups are never given back."""
    mesh = init_device_mesh(device, dims.sizes, mesh_dim_names=MESH)
    if dims.cp > 1:
        mesh["dp", "cp"]._flatten("loss")
    made = {group: _group(dims.members(group), dims.world) for group in GROUPS}
    return mesh, {group: process_group for group, process_group in made.items() if process_group is not None}


@cache
def _two_levels(mesh: DeviceMesh, replicas: int) -> DeviceMesh:
    return mesh._unflatten(0, (replicas, mesh.size() // replicas), (REPLICAS, SHARDS))


def _group(members: list[list[int]], world: int) -> dist.ProcessGroup | None:
    """This rank's group, or None where it is alone. Every rank must call it."""
    if len(members[0]) == 1:
        return None
    if len(members[0]) == world:
        return dist.group.WORLD
    process_group, _ = dist.new_subgroups_by_enumeration(members)
    assert isinstance(process_group, dist.ProcessGroup)
    return process_group


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


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
        lengths = x_N.new_zeros(self._context.dp_shares, dtype=torch.int64)
        lengths[rank] = len(x_N)
        ends = self.sum(lengths).cumsum(0).tolist()
        mine = slice(ends[rank] - len(x_N), ends[rank])
        everyone = x_N.new_zeros(ends[-1])
        everyone[mine] = x_N
        return self.sum(everyone), mine
