"""AdamW as Llama 3 uses it: decoupled weight decay on matrices, none on norms; gradients clipped by global norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from llama3.config.schema import OptimizerSection
from llama3.model.shards import local
from llama3.training.parallel import Dims, ParallelContext


def build_optimizer(model: nn.Module, options: OptimizerSection) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient. One fused kernel per step, on CPU and CUDA."""

    def mark_changed(*_: Any) -> None:
        # The fused kernel does not count its writes, by which others see that the weights have changed (the prompt
        # cache of an engine that samples from this model).
        increment_version(parameters)

    parameters = [p for p in model.parameters() if p.requires_grad]
    # One group per mesh: the fused kernel takes no tensors of different meshes at once.
    groups: dict[tuple[bool, DeviceMesh | None], list[nn.Parameter]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault((parameter.ndim >= 2, mesh), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": group, "weight_decay": options.weight_decay if are_matrices else 0.0}
            for (are_matrices, _), group in groups.items()
        ],
        lr=0.0,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        fused=True,
    )
    optimizer.register_step_post_hook(mark_changed)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(
    parameters: Mapping[str, nn.Parameter], limit: float, context: ParallelContext, stages: Mapping[str, int]
) -> float:
    """Scale all gradients so that their norm over all ranks is at most `limit`. Returns the norm before.

    stages: how many stages of a pipeline have each parameter

    A norm that is not finite leaves the gradients unusable, which the caller must check.
    """
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    norm = _norm(gradients, context, stages)
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients.values():
        local(gradient).mul_(scale)
    return float(norm)


def _norm(gradients: Mapping[str, Tensor], context: ParallelContext, stages: Mapping[str, int]) -> Tensor:
    """The norm over all ranks, a scalar: each part of a gradient counts once, however many ranks have it."""
    if context.dims.world == 1:
        return torch.nn.utils.get_total_norm([local(gradient) for gradient in gradients.values()])
    parts: dict[int, list[Tensor]] = {}
    for name, gradient in gradients.items():
        parts.setdefault(_copies(gradient, context.dims) * stages[name], []).append(local(gradient))
    mine = sum(float(torch.nn.utils.get_total_norm(part)) ** 2 / copies for copies, part in parts.items())
    (squares,) = context.reduce([mine], "sum", "world")
    return torch.tensor(squares, device=context.device).sqrt()


def _copies(gradient: Tensor, dims: Dims) -> int:
    """How many ranks of one stage have the same part of a gradient."""
    copies = dims.world // dims.pp
    if isinstance(gradient, DTensor):
        for axis, placement in enumerate(gradient.placements):
            copies //= 1 if placement.is_replicate() else gradient.device_mesh.size(axis)
    return copies
