"""The tensors of a training run by name: which they are, and how they are put back.

A checkpoint holds the parts that the ranks held, and each rank reads what it holds now (llama3.training.parts): a run
resumes in another layout and on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn

from llama3.errors import CheckpointError, Problem
from llama3.model.shards import local, part_of
from llama3.training.parts import StoredTensors

OTHER_TENSOR = CheckpointError.declare(
    "L3-TRN-015", "tensor {name!r} {mismatch}", fix="continue with the model that was being trained"
)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name: all but those that an adapter has frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments as "<parameter>/<moment>"; empty before the first update."""
    return {
        f"{name}/{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def model_problems(model: nn.Module, tensors: StoredTensors, held: Set[str], where: str) -> list[Problem]:
    """Every tensor that is missing, extra or of another shape than the trainable parameter. `held`: the parameters that
    any rank holds."""
    parameters = trainable(model)
    return [
        OTHER_TENSOR.problem(where, name=name, mismatch=mismatch)
        for name in sorted({*parameters, *(tensors.keys() - held)})
        if (mismatch := _mismatch(parameters.get(name), tensors.shapes.get(name)))
    ]


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: StoredTensors) -> None:
    """Fill the trainable parameters, each rank with what it holds of them."""
    for name, parameter in trainable(model).items():
        local(parameter).copy_(tensors.part(name, part_of(parameter)))


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: StoredTensors) -> None:
    """Fill the moments of the parameters held here from what `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    for key, shape in tensors.shapes.items():
        name, _, moment = key.rpartition("/")
        if (parameter := parameters.get(name)) is not None:
            # AdamW's step counter is a scalar beside the moments, never sharded.
            optimizer.state[parameter][moment] = (
                read_like(parameter, tensors, key) if shape == parameter.shape else tensors[key].to(parameter.device)
            )


@torch.no_grad()
def read_like(parameter: Tensor, tensors: StoredTensors, name: str) -> Tensor:
    """A stored tensor on the device, and cut the way, of `parameter`; only what this rank holds of it is read."""
    mine = tensors.part(name, part_of(parameter))
    made = torch.empty_like(parameter, dtype=mine.dtype, requires_grad=False)
    local(made).copy_(mine)
    return made


def _mismatch(parameter: Tensor | None, shape: torch.Size | None) -> str:
    if shape is None:
        return "is missing"
    if parameter is None:
        return "is not part of the model"
    if parameter.shape != shape:
        return f"has shape {tuple(shape)}, the model needs {tuple(parameter.shape)}"
    return ""
