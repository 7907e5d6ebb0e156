"""Lives of a token stream that end by SIGKILL, run as `killed_loader.py PLAN FOLDER LIVES SEED`.

Each life forks the ranks of a world, which read from the state that the last life left, on threads, and save a state
after each batch, until all are killed at once, wherever they are. What counts as read is what the slowest rank had
saved. Prints, as JSON, the rows that were read, how many ranks a signal ended, and a hash of the rows in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from llama3.data.loader import TokenLoader, TokenRows

SEQ_LEN, BATCH, SEED = 16, 13, 9
WORLDS = (1, 2, 3, 4, 8)


def digests(rows: TokenRows) -> list[bytes]:
    """A hash of each row: its tokens, its cut into documents, their identities, its source."""
    return [
        hashlib.sha256(
            rows.tokens[r].tobytes()
            + rows.cu_seqlens[r].tobytes()
            + rows.doc_ids[rows.splits[r] : rows.splits[r + 1]].tobytes()
            + rows.source_ids[r].tobytes()
        ).digest()
        for r in range(len(rows))
    ]


def opened(plan: str) -> TokenLoader:
    return TokenLoader(plan, seq_len=SEQ_LEN, seed=SEED)


def rank(plan: str, folder: Path, state: dict, r: int, world: int) -> None:
    """Reads until it is killed. A row is logged before the state that counts it is in place."""
    loader = opened(plan)
    loader.load_state_dict(state)
    with open(folder / f"{r}.log", "wb", buffering=0) as log:
        for rows in loader.batches(BATCH, rank=r, world=world, threads=1 + r % 3, prefetch=1 + r % 4):
            log.write(b"".join(digests(rows)))
            (folder / f"{r}.tmp").write_text(json.dumps(loader.state_dict()))
            os.replace(folder / f"{r}.tmp", folder / f"{r}.json")


def life(plan: str, folder: Path, state: dict, world: int, batches: int) -> tuple[dict, list[bytes], int]:
    """The state that a life leaves, the hashes of the rows that it read, and how many ranks a signal ended. They are
    killed once each of them has logged `batches` batches."""
    folder.mkdir()
    ranks = []
    for r in range(world):
        if (child := os.fork()) == 0:
            try:
                rank(plan, folder, state, r, world)
            finally:
                os._exit(1)
        ranks.append(child)
    enough = {folder / f"{r}.log": batches * len(range(r, BATCH, world)) * 32 for r in range(world)}
    while not all(log.exists() and log.stat().st_size >= size for log, size in enough.items()):
        time.sleep(0.0005)
    for child in ranks:
        os.kill(child, signal.SIGKILL)
    killed = sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in ranks)
    saved = [folder / f"{r}.json" for r in range(world)]
    if not all(path.exists() for path in saved):
        return state, [], killed
    after = min((json.loads(path.read_text()) for path in saved), key=lambda some: some["next_row"])
    logs = [(folder / f"{r}.log").read_bytes() for r in range(world)]
    read = []
    for row in range(after["next_row"] - state["next_row"]):
        step, place = divmod(row, BATCH)
        r, number = place % world, place // world
        at = 32 * (step * len(range(r, BATCH, world)) + number)
        read.append(logs[r][at : at + 32])
    return after, read, killed


def main() -> None:
    plan, folder, lives, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    draw = random.Random(seed)
    state, digest, killed, worlds = opened(plan).state_dict(), hashlib.sha256(), 0, set()
    for number in range(lives):
        world = draw.choice(WORLDS)
        state, read, by_signal = life(plan, folder / str(number), state, world, draw.randrange(5))
        digest.update(b"".join(read))
        killed += by_signal
        worlds.add((world, by_signal == world))
    told = {"rows": state["next_row"], "killed": killed, "worlds": sorted(worlds), "digest": digest.hexdigest()}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
