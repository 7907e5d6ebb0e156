"""One rank of benchmarks/checkpointing.py: `checkpointing_worker.py pauses|resume FOLDER ROUNDS STARTED`.

Rank 0 prints its figures as JSON. STARTED: what `time.monotonic` said when the process was launched.
"""
# ruff: noqa: E402  (imports are what is timed)

import sys
import time

LOADED = time.monotonic()  # Python itself is up

import json
import os
from pathlib import Path

import numpy as np
import torch

from llama3.config.schema import OptimizerSection, ParallelismSection
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover
from llama3.training import loop
from llama3.training.checkpoint import CheckpointStore
from llama3.training.loop import Trainer
from llama3.training.parallel import start
from llama3.training.placed import PlacedModel
from llama3.training.schedule import RateCurve, Schedule
from llama3_plugins.algorithms.next_token import NextToken

IMPORTED = time.monotonic()

CONFIG = ModelConfig(dim=512, n_layers=7, n_heads=8, n_kv_heads=4, ffn_dim=1536, vocab_size=8192, max_seq_len=512)
ROW, STEPS = 256, 10_000


class Rows:
    """A row of random tokens for each rank."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks

    def examples(self, step: int) -> list[Batch]:
        draw = np.random.default_rng(step)
        return [Batch.of_documents(draw.integers(0, CONFIG.vocab_size, ROW), [0]) for _ in range(self.ranks)]


def trainer(folder: Path) -> tuple[Trainer, dict[str, float]]:
    """A run that saves every step; seconds until the processes were connected, and until the model stood."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    section = ParallelismSection(dp="fsdp" if world > 1 else "single")
    parallel = start(section, CONFIG, torch.device("cpu"), discover())
    connected = time.monotonic()
    store = CheckpointStore(folder)
    model = PlacedModel.undrawn(CONFIG, parallel) if store.steps() else PlacedModel.drawn(CONFIG, 0, parallel)
    options = OptimizerSection(
        lr=1e-4, warmup=1, precision="fp32", log_every=STEPS, checkpoint_every=1, microbatch_tokens=ROW
    )
    made = Trainer(
        model,
        NextToken(),
        Rows(world),
        options=options,
        schedule=Schedule([RateCurve(STEPS, 1e-4, 0.1, 1)]),
        seed=0,
        collate=Batch.concat,
        store=store,
    )
    return made, {"process group": connected - IMPORTED, "model build": time.monotonic() - connected}


def step(made: Trainer) -> None:
    made.step(made.progress.step)


def timed(call, *arguments, **named) -> float:
    started = time.monotonic()
    call(*arguments, **named)
    return time.monotonic() - started


def pauses(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds that training stands still for a save, of both kinds in turn, and of steps beside a save and without.
    "async CPU": what this thread computed meanwhile, which other programs on the machine do not lengthen."""
    made, _ = trainer(folder)
    found: dict[str, list[float]] = {"async": [], "async CPU": [], "sync": [], "step": [], "step beside a save": []}
    for turn in range(rounds + 1):
        found["step"].append(timed(step, made))
        made.context.barrier()
        computed = time.thread_time()
        found["async"].append(timed(made.save_if_due, stopping=False))
        found["async CPU"].append(time.thread_time() - computed)
        found["step beside a save"].append(timed(step, made))
        made.saver.settle(wait=True)
        step(made)
        made.context.barrier()
        found["sync"].append(timed(made.save_if_due, stopping=True))
        if turn == 0:  # warms up: memory for the copies is asked of the system
            first = {f"first {name}": [seconds.pop()] for name, seconds in found.items()}
    files = next(iter(folder.glob("step-*"))).glob("*.safetensors")
    return {**found, **first, "bytes": [sum(file.stat().st_size for file in files)]}


def resume(folder: Path, started: float) -> dict[str, float]:
    """Seconds of each part between the launch and the end of the first step."""
    made, parts = trainer(folder)
    parts = {"Python": LOADED - started, "import": IMPORTED - LOADED, **parts}
    store, names = made.store, {"load_model_tensors": "read weights", "load_optimizer_tensors": "read optimizer"}

    def measured(call, name):
        def run(*arguments, **named):
            begun = time.monotonic()
            result = call(*arguments, **named)
            parts[name] = time.monotonic() - begun
            return result

        return run

    store.load = measured(store.load, "verify hashes")
    for function, name in names.items():
        setattr(loop, function, measured(getattr(loop, function), name))
    made.restore()
    assert made.progress.step > 0
    parts["first step"] = timed(step, made)
    return {**parts, "all": time.monotonic() - started}


if __name__ == "__main__":
    what, folder, rounds, started = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    result = pauses(folder, rounds) if what == "pauses" else resume(folder, started)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result), flush=True)
    torch.distributed.barrier() if torch.distributed.is_initialized() else None
    os._exit(0)  # gloo's threads sometimes abort a process that has already done its work
