"""Shared by the benchmarks of a GPU: which device, what it can do at best, timing, and one result file.

`--device cpu --shape tiny` goes through the same code on a machine without a GPU, to see that a script works; nothing
of that is kept unless `--out` names a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import common
import torch

from llama3.model.build import assign, empty_model
from llama3.model.config import PRESETS, ModelConfig
from llama3.model.transformer import Transformer

PEAK_BF16 = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense FLOP/s in bfloat16 that the vendor states, by a part of the device's name. No other device has a default."""
NO_GPU = """this machine has no CUDA device that torch can use: nothing is measured.
To see that the script works: --device cpu --shape tiny"""


def arguments(description: str, shape: str) -> argparse.Namespace:
    """The command line of a benchmark. Exits where there is no such device."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=list(PRESETS), default=shape, help="whose sizes the random model has")
    parser.add_argument("--seconds", type=float, default=240, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, help="the result file (default on a GPU: in benchmarks/results)")
    found = parser.parse_args()
    if found.device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_GPU)
    return found


class Runs:
    """Measurements by name. One that fails, or that there is no time for, is written down as such: the others go on."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.results: dict[str, Any] = {}

    def add(self, name: str, measure: Callable[[], Any]) -> Any:
        """What `measure` returns, or None."""
        if time.monotonic() > self.deadline:
            self.results[name] = {"left out": "no time was left"}
            return None
        try:
            self.results[name] = measure()
        except Exception as error:
            self.results[name] = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        print(f"{name}: {json.dumps(self.results[name])}", flush=True)
        return self.results[name] if "failed" not in self.results[name] else None

    def write(self, name: str, options: argparse.Namespace) -> None:
        """The result file, with the machine's facts and the command."""
        out = options.out or (common.RESULTS / f"{name}.json" if options.device == "cuda" else None)
        if out is None:
            print("not kept: a CPU says nothing of a GPU")
            return
        content = {
            "benchmark": name,
            "command": "make bench-gpu",
            "machine": common.machine(),
            "device": facts(torch.device(options.device)),
            "shape": options.shape,
            "results": self.results,
        }
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"written to {out}")


def seconds_of(run: Callable[[], object], device: torch.device, rounds: int = 3, warmup: int = 1) -> float:
    """Median seconds of a run, the device's work included."""
    seconds = []
    for turn in range(warmup + rounds):
        synchronize(device)
        start = time.perf_counter()
        run()
        synchronize(device)
        if turn >= warmup:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes: what decoding is bound by."""
    count = 1 << (31 if device.type == "cuda" else 24)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / seconds_of(lambda: target.copy_(source), device, rounds=10)


def product_speed(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of a large matrix product: what prompts and training are bound by."""
    size = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, device, rounds=10)


def peak(device: torch.device) -> float | None:
    """The vendor's figure, or None for a device that is not in the list."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((speed for part, speed in PEAK_BF16.items() if part in name), None)


def facts(device: torch.device) -> dict[str, Any]:
    """What a figure means nothing without."""
    found: dict[str, Any] = {"type": device.type, **common.versions("torch"), "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "capability": torch.cuda.get_device_capability(device)}
        found |= {"memory_gib": properties.total_memory >> 30, **common.versions("triton"), **_driver()}
    return found


def _driver() -> dict[str, str]:
    """Driver, power limit and clock, where the vendor's tool tells."""
    fields = ["driver_version", "power.limit", "clocks.max.sm"]
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, map(str.strip, told.splitlines()[0].split(",")), strict=False))


def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """A model of random weights, drawn on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    model = empty_model(config, ())
    state = {}
    for name, parameter in model.named_parameters():
        weight = torch.ones(parameter.shape, dtype=dtype, device=device)
        if parameter.dim() == 2:
            weight.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        state[name] = weight
    assign(model, state)
    return model
