"""What a checkpoint costs training: the pause of an asynchronous save beside a synchronous one, and each part of
resuming from cold. Run: make bench-checkpoint.

A model of 30 million parameters with AdamW's moments, one thread per rank, on one rank and on two (FSDP). The two
kinds of save alternate within one process; a resume is a fresh process whose checkpoint is not in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import table, versions, write_results

WORKER = Path(__file__).with_name("checkpointing_worker.py")


def launch(world: int, what: str, folder: Path, rounds: int) -> dict:
    """What rank 0 says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(world):
        alone = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
        command = [sys.executable, str(WORKER), what, str(folder), str(rounds), str(time.monotonic())]
        pipe = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
        children.append(subprocess.Popen(command, env=shared | alone, stdout=pipe, text=True))
    output = children[0].communicate()[0]
    for child in children:
        child.wait()
    return json.loads(output)


def forget(folder: Path) -> None:
    """Have the system read the files from disk the next time."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def pause_row(world: int, found: dict) -> dict:
    median = {name: statistics.median(values) for name, values in found.items()}
    return {
        "ranks": world,
        "MiB": median["bytes"] / 2**20,
        "sync, s": median["sync"],
        "async pause, s": median["async"],
        "of it CPU, s": median["async CPU"],
        "pause / sync": median["async"] / median["sync"],
        "first async pause, s": median["first async"],
        "step, s": median["step"],
        "step beside a save, s": median["step beside a save"],
        "saves": len(found["async"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    pauses, resumes, raw = [], [], {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as place:
        for world in (1, 2):
            folder = Path(place, str(world))
            raw[f"pauses, {world} ranks"] = found = launch(world, "pauses", folder, options.rounds)
            pauses.append(pause_row(world, found))
            rounds = []
            for _ in range(max(3, options.rounds // 2)):
                forget(folder)
                rounds.append(launch(world, "resume", folder, 0))
            raw[f"resumes, {world} ranks"] = rounds
            parts = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
            resumes.append({"ranks": world, **parts})
    print(table(pauses))
    print(table(resumes))
    facts = {"command": "make bench-checkpoint", "rounds": options.rounds}
    found = {**facts, "versions": versions("torch", "safetensors"), "pauses": pauses, "resumes": resumes, "raw": raw}
    print(write_results("checkpointing", found))


if __name__ == "__main__":
    main()
