"""New models: without storage, to be given tensors, or with parameters drawn anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer

HEADS = ("value_head.weight", "score_head.weight")


def empty_model(config: ModelConfig, names: Container[str]) -> Transformer:
    """A model without storage, with the heads that `names` holds parameters of."""
    with torch.device("meta"), _Undrawn():
        return Transformer(config, **{name.removesuffix(".weight"): name in names for name in HEADS})


class _Undrawn(TorchFunctionMode):
    """Leaves new parameters as they are. Drawing them on the meta device would import torch's compiler: seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" and isinstance(kwargs.get("tensor"), Tensor):
            return kwargs["tensor"]
        return func(*args, **kwargs)


def assign(model: Transformer, state: dict[str, Tensor]) -> None:
    """Give an empty model its tensors; a tied output matrix shares the embedding's."""
    tied = {"lm_head.weight": state["embed.weight"]} if model.config.tied else {}
    model.load_state_dict({**state, **tied}, assign=True)
    if model.config.tied:
        model.lm_head.weight = model.embed.weight


def init_weights(model: Transformer, seed: int) -> Transformer:
    """Draw all parameters anew: each depends on (seed, its name) only, not on the order or number of the others.

    Matrices are normal with standard deviation dim ** -0.5 of their input, those that write into the residual stream
    divided by sqrt(2 * layers); embeddings use dim ** -0.5, so that a tied output matrix starts near uniform.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(draw_weight(model.config, seed, name, parameter.shape))
    return model


def draw_weight(config: ModelConfig, seed: int, name: str, shape: torch.Size) -> Tensor:
    """A new model's parameter `name`, in float32 on the CPU (see `init_weights`)."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    deviation = shape[-1] ** -0.5
    if name.endswith(("attention.out.weight", "ffn.down.weight")):
        deviation /= (2 * config.n_layers) ** 0.5
    drawn = torch.empty(shape).normal_(0.0, deviation, generator=generator(seed, name))
    if name.endswith("ffn.gate_up.weight"):  # gate first, then up: how rows are grouped makes no other model
        drawn = drawn.unflatten(0, (2, config.ffn_groups, -1)).transpose(0, 1).reshape(shape)
    return drawn


def generator(seed: int, name: str) -> torch.Generator:
    """Draws a parameter: a function of the seed and its name only."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
