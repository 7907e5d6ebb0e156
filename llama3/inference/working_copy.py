"""A model's weights once more in another precision: what an engine computes with while the model itself is trained in
float32. Adapters are merged into it, so that generation does not pay for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from llama3.config.precision import AutoPrecision
from llama3.model.build import assign, empty_model
from llama3.model.precision import DTYPES, chosen
from llama3.model.transformer import Transformer


@torch.no_grad()
def working_copy(model: Transformer, dtype: torch.dtype) -> Transformer:
    """A copy (without value and score heads) to be brought up to date with `refresh` whenever the model changed."""
    copy = empty_model(model.config, ())
    names = copy.state_dict().keys()
    assign(copy, {name: weight.to(dtype) for name, weight in _weights(model, names)})
    return copy.requires_grad_(False)


@torch.no_grad()
def refresh(copy: Transformer, model: Transformer) -> None:
    """Bring the copy's weights up to date."""
    mine = copy.state_dict()
    for name, weight in _weights(model, mine.keys()):
        mine[name].copy_(weight)


def _weights(model: Transformer, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Every weight as its layer computes with it; an adapted layer makes it of its parts, one at a time."""
    for name in names:
        yield name, weight_of(model, name)


def weight_of(model: Transformer, name: str) -> Tensor:
    """The weight `name` of the plain model."""
    layer, _, attribute = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(layer), attribute)
    return weight


def sampling_dtype(model: Transformer, precision: AutoPrecision = "auto") -> torch.dtype:
    """The dtype to sample in. "auto" leaves a model of 16 bits as it is; for others it is what the device multiplies
    few rows faster in."""
    weight = next(model.parameters())
    if precision == "auto" and weight.dtype != torch.float32:
        return weight.dtype
    return DTYPES[chosen(precision, "sampling", weight.device)]
