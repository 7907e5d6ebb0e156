"""What ranks tell each other beside gradients: JSON values, and tensors whose shape the receiver does not know.

No pickle: torch's own collectives for objects use it.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from llama3.training.flight import FLIGHT


def broadcast(value: Any, source: int = 0, group: dist.ProcessGroup | None = None) -> Any:
    """The JSON value of rank `source`, on every rank of a group (the world); what the others give is ignored."""
    message = _packed(value)
    size = torch.tensor([len(message)])
    with FLIGHT.collective("broadcast", _name(group)):
        dist.broadcast(size, src=source, group=group)
        if dist.get_rank() != source:
            message = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(message, src=source, group=group)
    return _unpacked(message)


def gather(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """The JSON values of all ranks of a group, in the group's order, on every one of them."""
    message = _packed(value)
    world = dist.get_world_size(group)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    with FLIGHT.collective("gather", _name(group)):
        dist.all_gather(sizes, torch.tensor([len(message)]), group=group)
        longest = int(torch.cat(sizes).max())
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(message)] = message
        messages = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(messages, padded, group=group)
    return [_unpacked(row[: int(size)]) for row, size in zip(messages, sizes, strict=True)]


def broadcast_tensor(
    tensor: Tensor | None, source: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> Tensor:
    """The tensor of rank `source`, on every rank of a group (the world); what the others give is ignored."""
    mine = dist.get_rank() == source
    described = [list(tensor.shape), str(tensor.dtype)] if mine and tensor is not None else None
    shape, dtype = broadcast(described, source, group)
    sent = tensor.contiguous() if mine and tensor is not None else None
    if sent is None:
        sent = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")), device=device)
    with FLIGHT.collective("broadcast_tensor", _name(group), sent.shape):
        dist.broadcast(sent, src=source, group=group)
    return sent


def _name(group: dist.ProcessGroup | None) -> str:
    """Of a group for the flight recorder: the same on all of its ranks."""
    return "world" if group is None else group.group_name


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(message: Tensor) -> Any:
    return json.loads(bytes(message.numpy()))
