"""The tensors of a training run by name, whole: gathered from however many ranks hold them, and put back.

A checkpoint therefore does not know how the model was sharded, and a run resumes on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from llama3.errors import CheckpointError, Problem


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name: all but those that an adapter has frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def model_tensors(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Trainable parameters by name, whole, on the CPU. Frozen ones come from the base model again."""
    return whole({name: parameter.data for name, parameter in trainable(model).items()}, keep=keep)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """The optimizer's moments as "<parameter>/<moment>"; empty before the first update."""
    return whole(
        {
            f"{name}/{moment}": value
            for name, parameter in model.named_parameters()
            for moment, value in optimizer.state.get(parameter, {}).items()
        },
        keep=keep,
    )


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill the trainable parameters. Raises CheckpointError naming every tensor that is missing, extra or of another
    shape."""
    parameters = trainable(model)
    problems = [
        Problem("L3-TRN-015", where, f"tensor {name!r} {what}", fix="continue with the model that was being trained")
        for name in sorted({*parameters, *tensors})
        if (what := _mismatch(parameters.get(name), tensors.get(name)))
    ]
    if problems:
        raise CheckpointError(problems)
    for name, parameter in parameters.items():
        parameter.copy_(like(parameter, tensors[name]))


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Fill the optimizer's moments from what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        # AdamW's step counter is a scalar beside the moments, never sharded.
        optimizer.state[parameter][moment] = (
            like(parameter, tensor) if tensor.shape == parameter.shape else tensor.to(parameter.device)
        )


def whole(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """Tensors on the CPU, gathered where they are sharded. Every rank must call it; with keep=False it gets nothing."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = full.detach().cpu()
    return found


def like(parameter: Tensor, whole: Tensor) -> Tensor:
    """`whole` on the device, and cut the way, of `parameter`. Every rank holds `whole`: nothing is sent."""
    whole = whole.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return whole


def _mismatch(parameter: Tensor | None, tensor: Tensor | None) -> str:
    if tensor is None:
        return "is missing"
    if parameter is None:
        return "is not part of the model"
    if parameter.shape != tensor.shape:
        return f"has shape {tuple(tensor.shape)}, the model needs {tuple(parameter.shape)}"
    return ""
