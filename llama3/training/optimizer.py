"""AdamW as Llama 3 uses it: decoupled weight decay on matrices, none on norms; gradients clipped by global norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from llama3.config.schema import OptimizerSection


def build_optimizer(model: nn.Module, options: OptimizerSection) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient. One fused kernel per step, on CPU and CUDA."""

    def mark_changed(*_: Any) -> None:
        # The fused kernel does not count its writes, by which others see that the weights have changed (the prompt
        # cache of an engine that samples from this model).
        increment_version(parameters)

    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
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


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their norm over all ranks is at most `limit`. Returns the norm before, a scalar.

    Stays on the device: a norm that is not finite leaves the gradients unusable, which the caller must check.
    """
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(with_gradient, limit, norm)
    return norm
