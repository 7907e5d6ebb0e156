"""What a real step takes of the C library's allocator, and what the planner says it takes; for the planner's tests."""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from forked import run_ranks
from training_toys import options, schedule

from llama3.config.schema import ParallelismSection
from llama3.model.batch import Batch
from llama3.model.config import ModelConfig
from llama3.plugins.registry import discover
from llama3.training.loop import train
from llama3.training.parallel import start
from llama3.training.placed import PlacedModel

MODEL = ModelConfig(dim=128, n_layers=4, n_heads=4, n_kv_heads=2, ffn_dim=384, vocab_size=1024, max_seq_len=512)
FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS.split()]


def in_use() -> int:
    """Bytes that the C library has given away and not got back (glibc's mallinfo2)."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Info
    found = ask()
    return found.uordblks + found.hblkhd


class Watch(TorchDispatchMode):
    """Asks after every operation of torch, those of backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max(self.most, in_use())
        return result


class Rows:
    """`rows` documents a step."""

    def __init__(self, rows: int, seq_len: int) -> None:
        self.rows, self.seq_len = rows, seq_len

    def examples(self, step: int) -> list[Batch]:
        draw = np.random.default_rng(step).integers(0, MODEL.vocab_size, (self.rows, self.seq_len))
        return [Batch.of_documents(row, [0]) for row in draw]


def trained(layout: dict[str, Any], rows: int, seq_len: int, microbatch_tokens: int) -> PlacedModel:
    """Two steps of a new model."""
    section = options(lr=1e-3, microbatch_tokens=microbatch_tokens, checkpoint_every=100, log_every=100)
    parallel = start(ParallelismSection.model_validate(layout), MODEL, torch.device("cpu"), discover())
    model = PlacedModel.drawn(MODEL, 0, parallel)
    algorithm = discover().build("algorithms", "next_token", {})
    train(
        model,
        algorithm,
        Rows(rows, seq_len),
        collate=Batch.concat,
        options=section,
        schedule=schedule(section, 2),
        seed=0,
    )
    return model


def measured(layout: dict[str, Any], rows: int, seq_len: int, microbatch_tokens: int) -> dict[str, int]:
    """The most bytes of a rank while it trains, above what it had before. Trains twice: the first time imports and
    makes what stays."""
    trained(layout, rows, seq_len, microbatch_tokens)
    before = in_use()
    with Watch() as watch:
        trained(layout, rows, seq_len, microbatch_tokens)
    return {"most": watch.most - before}


def world_of(layout: dict[str, Any]) -> int:
    return math.prod(ParallelismSection.model_validate(layout).sizes(1).values())


def fullest_rank(folder: Path, layout: dict[str, Any], *shape: int) -> int:
    """What the fullest rank took. In an interpreter of its own: in the heap of a long-lived one garbage is freed while
    a rank trains, and the allocator takes minutes to count."""
    command = [sys.executable, __file__, str(folder), json.dumps([layout, *shape])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


if __name__ == "__main__":
    layout, *shape = json.loads(sys.argv[2])
    found = run_ranks(Path(sys.argv[1]), world_of(layout), measured, layout, *shape)
    print(max(rank["most"] for rank in found))
