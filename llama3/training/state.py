"""The tensors of a training run by name: which they are, and how they are put back.

A checkpoint holds them whole (llama3.training.placed gathers them), so it does not know how the model was sharded: a
run resumes on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn

from llama3.errors import CheckpointError
from llama3.model.shards import like
from llama3.training.checkpoint import StoredTensors

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


@torch.no_grad()
def load_model_tensors(model: nn.Module, tensors: StoredTensors, held: Set[str], where: str) -> None:
    """Fill the trainable parameters. Raises CheckpointError naming every tensor that is missing, extra or of another
    shape. `held`: the parameters that any rank holds."""
    parameters = trainable(model)
    problems = [
        OTHER_TENSOR.problem(where, name=name, mismatch=mismatch)
        for name in sorted({*parameters, *(tensors.keys() - held)})
        if (mismatch := _mismatch(parameters.get(name), tensors.shapes.get(name)))
    ]
    if problems:
        raise CheckpointError.of(problems)
    for name, parameter in parameters.items():
        parameter.copy_(like(parameter, tensors[name]))


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Fill the moments of the parameters held here from what `optimizer_tensors` returned, whole."""
    parameters = dict(model.named_parameters())
    for key in tensors:
        name, _, moment = key.rpartition("/")
        if (parameter := parameters.get(name)) is not None:
            tensor = tensors[key]
            # AdamW's step counter is a scalar beside the moments, never sharded.
            optimizer.state[parameter][moment] = (
                like(parameter, tensor) if tensor.shape == parameter.shape else tensor.to(parameter.device)
            )


def _mismatch(parameter: Tensor | None, shape: torch.Size | None) -> str:
    if shape is None:
        return "is missing"
    if parameter is None:
        return "is not part of the model"
    if parameter.shape != shape:
        return f"has shape {tuple(shape)}, the model needs {tuple(parameter.shape)}"
    return ""
