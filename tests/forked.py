"""Ranks as forks of this process: torch is imported once, so that a case costs a second or two.

A rank writes its result into a file and leaves without cleaning up: gloo's threads sometimes abort a process that has
already done its work.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 120
"""Seconds after which a rank that waits for another gives up."""


def run_ranks(folder: Path, world: int, work: Callable[..., dict[str, Any]], *arguments: Any) -> list[dict[str, Any]]:
    """What `work(*arguments)` returned on each rank: tensors and numbers by name."""
    folder.mkdir(parents=True)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(folder, rank, world, work, arguments)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"result-{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(folder: Path, rank: int, world: int, work: Callable[..., dict[str, Any]], arguments: Any) -> None:
    os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    try:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", meeting, timedelta(seconds=PATIENCE), rank=rank, world_size=world)
        torch.save(work(*arguments), folder / f"result-{rank}.pt")
        dist.barrier()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
    finally:
        os._exit(0)
