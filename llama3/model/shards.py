"""Whole tensors and their parts: a parameter that a strategy has cut over ranks is a `DTensor` of the whole shape."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

Part = tuple[slice, ...]
"""Where a part of a tensor stands in the whole, axis by axis, each with its start and its stop."""


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or gathered where it is sharded: every rank that holds a part of it must call it then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, in the tensor's own storage: differentiable, and the tensor itself where it
    is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor) -> Part:
    """Which part of a tensor this rank holds."""
    if not isinstance(tensor, DTensor):
        return part_at([0] * tensor.ndim, tensor.shape)
    (chunk,) = tensor.__create_chunk_list__()
    return part_at(chunk.offsets, local(tensor).shape)


def layout_of(tensor: Tensor) -> Hashable:
    """How a tensor is cut: of two that are cut alike, a rank holds the same part."""
    if not isinstance(tensor, DTensor):
        return tensor.shape
    return tensor.shape, tensor.placements, tensor.device_mesh


def part_at(offsets: Sequence[int], shape: Sequence[int]) -> Part:
    """The part of a shape that begins at the offsets."""
    return tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A whole `tensor` on the device, and cut the way, of `parameter`. Every rank has it: nothing is sent."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return tensor
