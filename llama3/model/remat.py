"""Rematerialisation by a byte budget: what a forward keeps for its backward stays within so many bytes on a device.

Decided anew for every forward, because microbatches differ in size (see `llama3.model.activations.recomputed`).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

import torch
from torch import nn

from llama3.config.precision import AutoPrecision
from llama3.model.activations import Recompute, block_bytes, head_bytes, recomputed
from llama3.model.attention import Attention, kept_pairs
from llama3.model.config import ModelConfig
from llama3.model.needs import TRAINED, WEIGHT, memory_here, size
from llama3.model.shards import local

log = logging.getLogger(__name__)

AUTO_SHARE = 0.5
"""Of what is free that activations may take by themselves: the rest is for what is made and dropped within a step, for
other models beside this one, and for what the estimate does not know."""


@dataclass
class Rematerialisation:
    """The budget of one model on one rank."""

    config: ModelConfig
    budget: int
    """Bytes that all forwards in flight may keep."""
    tp: int = 1
    _told: set[tuple[Recompute, ...]] = field(default_factory=set)

    def of_blocks(
        self, blocks: int, tokens: int, dtype: torch.dtype, attention: Attention, in_flight: int
    ) -> list[Recompute]:
        """What each of the blocks that a forward of so many tokens runs is to recompute. dtype: of its products"""
        precision: AutoPrecision = "bf16" if dtype.itemsize == 2 else "fp32"
        heads = self.config.n_heads // self.tp
        pairs = kept_pairs(attention, heads)
        every = tuple(
            block_bytes(self.config, tokens, what, precision=precision, pairs=pairs, tp=self.tp) for what in Recompute
        )
        head = head_bytes(self.config, tokens, precision=precision, tp=self.tp)
        found = recomputed(every, blocks, self.budget // in_flight - head)
        self._tell(found, tokens)
        return found

    def _tell(self, found: list[Recompute], tokens: int) -> None:
        """Once for each choice: how many blocks recompute what."""
        if max(found, default=Recompute.NOTHING) is Recompute.NOTHING or tuple(found) in self._told:
            return
        self._told.add(tuple(found))
        counts = ", ".join(f"{found.count(what)} {what.name.lower()}" for what in Recompute)
        log.info("of %d tokens, within %s, blocks recompute: %s", tokens, size(self.budget), counts)


def budget_of(model: nn.Module, device: torch.device) -> int:
    """Bytes that activations may take by themselves beside a model that has no storage yet: a share of what is free
    once its weights, gradients and moments stand."""
    to_come = sum(local(p).numel() * (TRAINED if p.requires_grad else WEIGHT) for p in model.parameters())
    return max(int(AUTO_SHARE * (free_bytes(device) - to_come)), 0)


def free_bytes(device: torch.device) -> int:
    """What this process may still take of the device's memory: on the CPU its share with the other local ranks."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_available(), memory_here() or _available()) // max(ranks, 1)


def _available() -> int:
    """Bytes that programs can still be given without paging (Linux); elsewhere all that the machine has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return memory_here() or 0
