"""Pipeline parallelism: consecutive layers on each rank of `pp`, in the order of llama3_plugins.parallelism.schedule.

Every rank knows every microbatch, hence the size of every message: all receives of an update are posted before it
begins, and microbatches may differ in length. Hidden states travel through CPU memory, also between GPUs.

Legend: T rows that a rank has of a forest, D model dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llama3.errors import ConfigError, Problem
from llama3.parallelism import (
    Columns,
    Cost,
    Dims,
    Loss,
    Microbatch,
    ModelConfig,
    ParallelContext,
    ParallelStrategy,
    PipelineTurn,
    Read,
    Runner,
    StepShape,
    Transformer,
    local,
)
from llama3_plugins.parallelism.fsdp import FINISHES
from llama3_plugins.parallelism.options import PipelineOptions
from llama3_plugins.parallelism.schedule import Action, bubble, forward_order, in_flight, order, split_order
from llama3_plugins.parallelism.split_backward import Weights, backward_to_input

FEW_LAYERS = ConfigError.declare(
    "L3-PAR-013",
    "{stages} stages for {layers} layers",
    why="a stage has one layer at least; the embedding and the output matrix count as one each",
    fix="set parallelism.pp.size x stages to {most} or less",
)
OLD_TORCH = ConfigError.declare(
    "L3-PAR-021",
    "the schedule 'zero_bubble' cannot run beside parallelism.dp with torch {version}",
    why="its FSDP cannot exchange gradients after the last backward pass",
    fix="install torch 2.15, or choose the schedule 1f1b or interleaved",
)


class Pipeline(ParallelStrategy):
    """Stages of about as many layers each. The embedding and the output matrix count as layers (paper 3.3.2); where
    they are one, the first and the last rank both have it, and add up what they learn of it."""

    def __init__(self, options: PipelineOptions) -> None:
        self.options = options

    def check(self, model: ModelConfig, dims: Dims) -> list[Problem]:
        if dims.pp == 1:
            return []
        problems = []
        stages, most = dims.pp * self.options.chunks, model.n_layers + 2
        if stages > most:
            problems.append(FEW_LAYERS.problem("parallelism.pp", stages=stages, layers=model.n_layers, most=most))
        if self.options.schedule == "zero_bubble" and dims.dp > 1 and not FINISHES:
            problems.append(OLD_TORCH.problem("parallelism.pp", version=torch.__version__))
        return problems

    def estimate(self, model: ModelConfig, dims: Dims, step: StepShape) -> Cost:
        """The fullest of the ranks for each: in work, in weights, and in what is alive for the backward pass. Hidden
        states travel while a rank computes."""
        ranks, chunks = dims.pp, self.options.chunks
        if ranks == 1:
            return Cost()
        alive = _alive(model.n_layers, ranks, chunks, step.microbatches, self.options.consecutive or ranks)
        rows = step.tokens / (dims.tp * dims.cp) * model.dim * step.width
        # With fewer microbatches than ranks, halves of backwards fill less; that is not counted.
        splits = self.options.schedule == "zero_bubble" and step.microbatches >= ranks
        return Cost(
            work=_fullest(model, ranks, chunks, in_work=True),
            weights=_fullest(model, ranks, chunks, in_work=False),
            rows=alive,
            inputs=alive,
            channels=alive,
            keys=alive,
            behind=2 * step.microbatches * (chunks - 1 / ranks) * rows,
            messages_behind=2 * step.microbatches * (chunks - 1 / ranks),
            bubble=bubble(ranks, chunks, step.microbatches, split=splits),
        )

    def choices(self, model: ModelConfig, dims: Dims) -> list[dict[str, Any]]:
        """One stage per rank, its backwards whole or in halves, and every power of two of stages that have a layer."""
        most = (model.n_layers + 2) // dims.pp if dims.pp > 1 else 1
        stages = [2**power for power in range(1, most.bit_length()) if 2**power <= most]
        several = [{"schedule": "interleaved", "stages": count} for count in stages]
        return [{}, {"schedule": "zero_bubble"}, *several] if dims.pp > 1 else [{}]

    def turns(self, dims: Dims, step: StepShape) -> list[list[PipelineTurn]]:
        return [list(_order(self.options, rank, dims.pp, step.microbatches)) for rank in range(dims.pp)]

    def apply(self, model: nn.Module, context: ParallelContext) -> None:
        if context.mesh is None or context.dims.pp == 1:
            return
        assert isinstance(model, Transformer)
        _, rank, ranks = context.axis("pp")
        stages = stage_layers(model.config.n_layers, ranks * self.options.chunks)
        model.chunks = [[str(layer) for layer in stages[stage]] for stage in range(rank, len(stages), ranks)]
        consecutive, splits = self.options.consecutive or ranks, self.options.schedule == "zero_bubble"
        model.in_flight = in_flight(rank, ranks, self.options.chunks, consecutive, split=splits)
        held = {name for chunk in model.chunks for name in chunk}
        for name in [name for name in model.layers if name not in held]:
            del model.layers[name]
        has_embed = rank == 0 or (model.config.tied and rank == ranks - 1)
        others = [] if has_embed else ["embed"]
        others += ["norm", "lm_head", "value_head", "score_head"] if rank < ranks - 1 else []
        for name in others:
            setattr(model, name, None)

    def runner(self, model: nn.Module, context: ParallelContext) -> Runner | None:
        if context.mesh is None or context.dims.pp == 1:
            return None
        assert isinstance(model, Transformer)
        return PipelineRunner(model, context, self.options)

    def sum_gradients(self, model: nn.Module, context: ParallelContext) -> None:
        """Both ends of the pipeline have the matrix of a tied model: each adds what the other has learnt of it."""
        assert isinstance(model, Transformer)
        if context.dims.pp == 1 or not model.config.tied or model.embed is None or not model.embed.weight.requires_grad:
            return
        group, rank, ranks = context.axis("pp")
        weight = model.embed.weight
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        mine, other = local(weight.grad), ranks - 1 - rank
        message = mine.cpu().contiguous()
        theirs = torch.empty_like(message)
        received = dist.irecv(theirs, group=group, group_src=other)
        dist.send(message, group=group, group_dst=other)
        cast(dist.Work, received).wait()
        mine += theirs.to(mine.device)


def stage_layers(layers: int, stages: int) -> list[range]:
    """The layers of each stage. With the embedding before the first and the output matrix behind the last, all stages
    have as many layers, or one more."""
    slots = layers + 2
    bounds = [stage * slots // stages for stage in range(stages + 1)]
    return [range(max(first - 1, 0), min(end - 1, layers)) for first, end in pairwise(bounds)]


def _order(options: PipelineOptions, rank: int, ranks: int, microbatches: int) -> list[Action]:
    """What a rank does in one update."""
    if options.schedule == "zero_bubble":
        return split_order(rank, ranks, microbatches)
    return order(rank, ranks, options.chunks, microbatches, options.consecutive or ranks)


@lru_cache(maxsize=4096)
def _fullest(model: ModelConfig, ranks: int, chunks: int, *, in_work: bool) -> float:
    """The fullest rank's share of the model's products (`in_work`) or of its weights."""
    head = model.vocab_size * model.dim
    norms = (2 * model.n_layers + 1) * model.dim
    block = (model.num_params() - norms - head * (1 if model.tied else 2)) / model.n_layers
    layers = [0] * ranks
    for stage, held in enumerate(stage_layers(model.n_layers, ranks * chunks)):
        layers[stage % ranks] += len(held)
    shares = [count * (block if in_work else block + 2 * model.dim) for count in layers]
    shares[0] += 0 if in_work else head
    shares[-1] += head if in_work else head + model.dim
    return max(shares) / (model.n_layers * block + head if in_work else model.num_params())


@lru_cache(maxsize=4096)
def _alive(layers: int, ranks: int, chunks: int, microbatches: int, consecutive: int) -> float:
    """The most that a rank keeps at once for the backward pass, in models' worth of one microbatch."""
    stages = stage_layers(layers, ranks * chunks)
    few = min(microbatches, 3 * max(ranks, consecutive))  # after that it alternates
    # The first ranks are the most ahead; the very first one may have a layer less than the second.
    return max(_most_alive(rank, ranks, chunks, few, consecutive, stages) for rank in {0, 1, ranks - 1}) / layers


def _most_alive(rank: int, ranks: int, chunks: int, microbatches: int, consecutive: int, stages: list[range]) -> int:
    """Layers times microbatches."""
    alive = most = 0
    for action in order(rank, ranks, chunks, microbatches, consecutive):
        held = len(stages[action.chunk * ranks + rank])
        alive += held if action.kind == "forward" else -held
        most = max(most, alive)
    return most


class PipelineRunner(Runner):
    """One rank's part of the schedule."""

    def __init__(self, model: Transformer, context: ParallelContext, options: PipelineOptions) -> None:
        self._model, self._context, self._device = model, context, context.device
        self._options = options
        self._group, self._rank, self._ranks = context.axis("pp")
        self._chunks, self._last = options.chunks, self._ranks * options.chunks - 1
        self._consecutive, self._splits = options.consecutive or self._ranks, options.schedule == "zero_bubble"
        self._dim, self._dtype = model.config.dim, next(model.parameters()).dtype

    def forward_backward(self, microbatches: Sequence[Microbatch], loss: Loss) -> None:
        actions = _order(self._options, self._rank, self._ranks, len(microbatches))
        last = actions[-1] if actions and actions[-1].kind == "backward" else None
        mail = self._mail(microbatches, actions)
        live: dict[tuple[int, int], tuple[Tensor | None, Tensor]] = {}
        waiting: dict[tuple[int, int], Weights] = {}
        for action in actions:
            stage, place = self._stage(action), (action.chunk, action.microbatch)
            if action.kind == "forward":
                x_TD = mail.receive(action).requires_grad_() if stage > 0 else None
                y = loss(replace(microbatches[action.microbatch], chunk=action.chunk), x_TD)
                live[place] = (x_TD, y)
                if stage < self._last:
                    mail.send(action, y.detach())
            elif action.kind == "weights":
                waiting.pop(place)()
            else:
                x_TD, y = live.pop(place)
                grad = mail.receive(action).to(y.dtype) if stage < self._last else None
                self._model.set_gradient_sync(action == last)
                waiting[place] = self._backward(y, grad, x_TD)
                if x_TD is not None:
                    mail.send(action, torch.zeros_like(x_TD) if x_TD.grad is None else x_TD.grad)
        mail.sent()

    def _backward(self, y: Tensor, grad: Tensor | None, x_TD: Tensor | None) -> Weights:
        """What is left to do of it. The first stage has no input whose gradient anybody waits for."""
        if self._splits and x_TD is not None and y.grad_fn is not None:
            return backward_to_input(y, grad, x_TD)
        y.backward(grad)
        return lambda: None

    def forward(self, microbatches: Sequence[Microbatch], read: Read) -> Sequence[Columns]:
        actions = forward_order(self._ranks, self._chunks, len(microbatches), self._consecutive)
        mail = self._mail(microbatches, actions)
        found: dict[int, Columns] = {}
        for action in actions:
            stage = self._stage(action)
            x_TD = mail.receive(action) if stage > 0 else None
            y = read(replace(microbatches[action.microbatch], chunk=action.chunk), x_TD)
            if stage < self._last:
                mail.send(action, cast(Tensor, y))
            else:
                found[action.microbatch] = cast(Columns, y)
        mail.sent()
        return [self._context.shared(found.get(i, ()), "pp", self._ranks - 1) for i in range(len(microbatches))]

    def _stage(self, action: Action) -> int:
        return action.chunk * self._ranks + self._rank

    def _mail(self, microbatches: Sequence[Microbatch], actions: Sequence[Action]) -> _Mail:
        """With a receive posted for every action that needs one."""
        mail = _Mail(self._group, self._rank, self._ranks, len(microbatches), self._device, self._dtype)
        cut = self._context.dims.tp * self._context.dims.cp
        for action in actions:
            stage = self._stage(action)
            if {"forward": stage > 0, "backward": stage < self._last}.get(action.kind):
                rows = microbatches[action.microbatch].forest.num_tokens // cut
                mail.expect(action, rows, self._dim)
        return mail


class _Mail:
    """The messages of one pass: hidden states to the next stage, their gradients back to the one before."""

    def __init__(
        self,
        group: dist.ProcessGroup,
        rank: int,
        ranks: int,
        microbatches: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.group, self.rank, self.ranks = group, rank, ranks
        self.microbatches, self.device, self.dtype = microbatches, device, dtype
        self._expected: dict[Action, tuple[Tensor, dist.Work]] = {}
        self._sent: list[tuple[Tensor, dist.Work]] = []

    def expect(self, action: Action, rows: int, dim: int) -> None:
        """Prepare for the message that an action needs."""
        x_TD = torch.empty(rows, dim, dtype=self.dtype)
        step = -1 if action.kind == "forward" else 1
        work = dist.irecv(x_TD, group=self.group, group_src=self._peer(step), tag=self._tag(action))
        self._expected[action] = (x_TD, cast(dist.Work, work))

    def receive(self, action: Action) -> Tensor:
        """The message that an action needs."""
        x_TD, work = self._expected.pop(action)
        work.wait()
        return x_TD.to(self.device)

    def send(self, action: Action, x_TD: Tensor) -> None:
        """What an action gives, to the stage that goes on with it."""
        step = 1 if action.kind == "forward" else -1
        message = x_TD.to("cpu", self.dtype).contiguous()
        work = dist.isend(message, group=self.group, group_dst=self._peer(step), tag=self._tag(action, step))
        self._sent.append((message, cast(dist.Work, work)))

    def sent(self) -> None:
        """Wait until all that was sent is received."""
        for _, work in self._sent:
            work.wait()

    def _peer(self, step: int) -> int:
        return (self.rank + step) % self.ranks

    def _tag(self, action: Action, step: int = 0) -> int:
        """Names a message by the stage that receives it."""
        stage = action.chunk * self.ranks + self.rank + step
        return (stage * self.microbatches + action.microbatch) * 2 + (action.kind == "backward")
