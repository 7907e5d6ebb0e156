"""Which precision a machine computes fastest in. Measured, because CPUs differ more than tenfold, either way.

A CPU with bfloat16 units multiplies in bfloat16 up to twice as fast as in float32; one without them converts every
operand and is ten times slower; and some that have them are slower all the same. Training multiplies many rows and is
bound by arithmetic; sampling multiplies few rows and is bound by reading the weights. So each has a probe of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F

from llama3.config.precision import AutoPrecision, Work

ComputePrecision = Literal["fp32", "bf16"]

DTYPES: Mapping[ComputePrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES: Mapping[Work, tuple[int, int, int]] = {"training": (128, 512, 512), "sampling": (16, 512, 2048)}
"""Rows, inputs and outputs of the product that stands for each kind of work: 67 and 34 million operations."""
SECONDS = 0.015
"""After which a measurement takes no further sample; four of them make the two probes. The slowest CPU seen needs
20 ms for its one product in bfloat16."""
MARGIN = 1.1
"""How much faster bfloat16 must be to be chosen: it rounds, and a tie is noise."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The choice for one kind of work, and the speeds of one thread behind it. On a GPU nothing is measured."""

    precision: ComputePrecision
    gflops: Mapping[ComputePrecision, float]

    def __str__(self) -> str:
        speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in self.gflops.items())
        return f"{self.precision} ({speeds} GFLOP/s a thread)" if speeds else self.precision


def chosen(precision: AutoPrecision, work: Work, device: torch.device) -> ComputePrecision:
    """`precision` itself, or what `probe` chooses where it is "auto"."""
    return probe(work, device).precision if precision == "auto" else precision


def autocast(precision: AutoPrecision, device: torch.device) -> torch.autocast:
    """Inside it, matrix products of training run in this precision."""
    enabled = chosen(precision, "training", device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def probe(work: Work, device: torch.device) -> Probe:
    """The faster precision for this work on a device."""
    return _probe(work, device.type)


@lru_cache(maxsize=8)
def _probe(work: Work, device: str) -> Probe:
    if device == "cuda":
        return Probe("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32", {})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other wherever another program runs
    try:
        gflops = {name: _gflops(SHAPES[work], dtype) for name, dtype in DTYPES.items()}
    finally:
        torch.set_num_threads(threads)
    return Probe("bf16" if gflops["bf16"] > MARGIN * gflops["fp32"] else "fp32", gflops)


def _gflops(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Speed of the fastest of a few products. The first pays for the making of its kernel, so it counts only where
    there is no time for a second."""
    rows, inputs, outputs = shape
    x, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    seconds: list[float] = []
    with torch.inference_mode():
        while sum(seconds) < SECONDS:
            started = time.perf_counter()
            F.linear(x, weight)
            seconds.append(time.perf_counter() - started)
    return 2 * rows * inputs * outputs / min(seconds) / 1e9
