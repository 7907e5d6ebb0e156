"""Token loading: shuffled rows, ours beside a NumPy memmap gather, torch's DataLoader, litdata's TokensLoader and
MosaicML streaming.

NumPy and torch are handed our order and must give our batches. litdata and streaming have an order of their own and
must give the same rows over a pass; both hold the tokens as 32-bit numbers, in rows of the length that is read. Ours
holds as many bits a token as the vocabulary needs and hands out 32; NumPy and torch widen to 64. Ours does more in its
time than any: it computes the order, verifies checksums and finds the document starts of every row. The tokens are in
the page cache. Figures are million tokens per second: of wall time, and of this process's CPU time (which leaves out
what a worker of DataLoader spends), as medians of the rounds.

Then a plan of 10^12 tokens, whose shards are names of one file: seconds from the path of the plan to the first batch,
and from a state to the batch after it: at the same steps again and again, at steps whose shards were never touched,
and at such steps with nothing of the file in the page cache. The CPU time beside the wall time tells waiting from work.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import interleaved, table, versions, write_results
from torch.utils.data import DataLoader, Dataset

from llama3 import _core
from llama3.data import TokenLoader
from llama3.data.plan import ShardEntry, SourceEntry, TokenPlan

VOCAB = 128_256
ROWS = 16
PEERS = Path(__file__).parent.parent / ".loader-peers"
TRILLION = 10**12
SHARD = 1 << 27


def make_tokens(folder: Path, count: int) -> tuple[TokenPlan, np.ndarray]:
    """Random tokens in documents of 1 to 4000 tokens, as a shard and as a raw uint32 file."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, VOCAB, count, dtype=np.uint32)
    ends = np.unique(np.append(np.cumsum(draw.integers(1, 4000, count // 1500)).clip(max=count), count))
    writer = _core.ShardWriter(str(folder / "0.tok"), vocab_size=VOCAB, tokenizer_hash="0" * 64)
    starts = np.append(0, ends).astype(np.uint64)
    writer.append(tokens, starts, np.arange(len(ends), dtype=np.uint64))
    total, documents, root = writer.finish()
    tokens.tofile(folder / "raw.bin")
    shard = ShardEntry(path="0.tok", tokens=total, documents=documents, root=root)
    plan = TokenPlan(tokenizer="0" * 64, vocab_size=VOCAB, sources=[SourceEntry(name="all", shards=[shard])])
    plan.save(folder)
    return TokenPlan.load(folder), np.memmap(folder / "raw.bin", np.uint32, "r")


class Windows(Dataset):
    """The raw file as rows in a given order."""

    def __init__(self, raw: np.ndarray, order: np.ndarray, seq_len: int) -> None:
        self.raw, self.order, self.seq_len = raw, order, seq_len

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, row: int) -> torch.Tensor:
        start = int(self.order[row]) * self.seq_len
        return torch.from_numpy(self.raw[start : start + self.seq_len].astype(np.int64))


def memmap_batches(windows: Windows) -> Iterator[torch.Tensor]:
    rows = windows.raw[: len(windows.raw) // windows.seq_len * windows.seq_len].reshape(-1, windows.seq_len)
    for start in range(0, len(windows), ROWS):
        yield torch.from_numpy(rows[windows.order[start : start + ROWS]].astype(np.int64))


def our_batches(loader: TokenLoader) -> Iterator[torch.Tensor]:
    start = 0
    while True:
        yield torch.from_numpy(loader.rows(start, ROWS).tokens)
        start += ROWS


def our_stream(loader: TokenLoader) -> Iterator[torch.Tensor]:
    loader.next_row = 0
    for rows in loader.batches(ROWS, prefetch=4):
        yield torch.from_numpy(rows.tokens)


def litdata_rows(raw: np.ndarray, seq_len: int, folder: Path) -> Dataset:
    """The tokens as litdata keeps them, read in its shuffled order."""
    from litdata.streaming.cache import Cache
    from litdata.streaming.dataset import StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    cache = Cache(str(folder), chunk_bytes="64MB", item_loader=TokensLoader(seq_len))
    for number, row in enumerate(raw[: len(raw) // seq_len * seq_len].reshape(-1, seq_len)):
        cache[number] = torch.from_numpy(row.astype(np.int32))
    cache.done()
    cache.merge()
    return StreamingDataset(str(folder), item_loader=TokensLoader(seq_len), shuffle=True)


def streaming_rows(raw: np.ndarray, seq_len: int, folder: Path) -> Dataset:
    """The tokens as MosaicML streaming keeps them, read in its shuffled order."""
    from streaming.base import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns={"tokens": f"ndarray:uint32:{seq_len}"}, size_limit="64mb") as writer:
        for row in raw[: len(raw) // seq_len * seq_len].reshape(-1, seq_len):
            writer.write({"tokens": row})
    return StreamingDataset(local=str(folder), shuffle=True, batch_size=ROWS)


def identities(batches: Iterator[object]) -> list[str]:
    """What rows are among the batches, in no order."""
    rows = (batch["tokens"] if isinstance(batch, dict) else batch for batch in batches)
    return sorted(_core.blake3_bytes(row.astype("<u4").tobytes()) for batch in rows for row in batch.numpy())


def trillion(folder: Path) -> list[dict[str, object]]:
    """Seconds to the first batch and after a resume, of a plan of 10^12 tokens."""
    writer = _core.ShardWriter(str(folder / "0.tok"), vocab_size=VOCAB, tokenizer_hash="0" * 64)
    part = np.zeros(1 << 20, np.uint32)
    for number in range(SHARD // len(part)):
        writer.append(
            part, np.arange(0, len(part) + 1, 1 << 10, dtype=np.uint64), np.arange(1 << 10, dtype=np.uint64) + number
        )
    tokens, documents, root = writer.finish()
    names = [f"{number}.tok" for number in range(-(-TRILLION // SHARD))]
    for name in names[1:]:
        os.link(folder / "0.tok", folder / name)
    shards = [ShardEntry(path=name, tokens=tokens, documents=documents, root=root) for name in names]
    TokenPlan(tokenizer="0" * 64, vocab_size=VOCAB, sources=[SourceEntry(name="all", shards=shards)]).save(folder)

    def first() -> None:
        next(TokenLoader(folder, seq_len=8192).batches(ROWS))

    loader = TokenLoader(folder, seq_len=8192)
    state = loader.state_dict()

    def resumed(step: int) -> None:
        loader.load_state_dict({**state, "next_row": step * ROWS})
        next(loader.batches(ROWS))

    draw = random.Random(0)
    results = [seconds("first batch", first, 9)]
    for step in (0, 1000, 10**6, 10**9):
        results.append(seconds(f"resume at step {step:,}", lambda step=step: resumed(step), 9))
    results.append(seconds("resume at a step drawn anew", lambda: resumed(draw.randrange(10**9)), 200))

    def forgotten() -> None:
        nonlocal loader
        loader = TokenLoader(folder, seq_len=8192)  # pages that are mapped are not dropped
        with open(folder / "0.tok", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    results.append(seconds("the same, from disk", lambda: resumed(draw.randrange(10**9)), 20, forgotten))
    return results


def seconds(
    what: str, run: Callable[[], object], times: int, before: Callable[[], object] | None = None
) -> dict[str, object]:
    """Median and slowest of so many runs, the first left out."""
    wall, cpu = [], []
    for _ in range(times + 1):
        if before:
            before()
        gc.collect()
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return {
        "what": what,
        "s": statistics.median(wall[1:]),
        "slowest s": max(wall[1:]),
        "CPU-s": statistics.median(cpu[1:]),
        "most CPU-s": max(cpu[1:]),
    }


def measure(
    plan: TokenPlan, raw: np.ndarray, seq_len: int, rounds: int, peers: dict[str, Dataset]
) -> list[dict[str, object]]:
    loader = TokenLoader(plan, seq_len=seq_len)
    batches = loader.epoch_rows["all"] // ROWS
    order = np.array([loader.place(row).window for row in range(batches * ROWS)])
    windows = Windows(raw, order, seq_len)
    sources = {
        "llama3 rows": lambda: our_batches(loader),
        "llama3 stream, 1 thread": lambda: our_stream(loader),
        "NumPy memmap gather": lambda: memmap_batches(windows),
        "torch DataLoader": lambda: iter(DataLoader(windows, ROWS)),
        "torch DataLoader, 1 worker": lambda: iter(DataLoader(windows, ROWS, num_workers=1)),
    }
    for name, source in sources.items():
        for mine, theirs in zip(islice(our_batches(loader), batches), source(), strict=False):
            assert torch.equal(mine.to(theirs.dtype), theirs), f"{name} reads other tokens"
    for name, dataset in peers.items():
        sources[name] = lambda dataset=dataset: iter(DataLoader(dataset, ROWS))
        ours = identities(islice(our_batches(loader), batches))
        assert identities(sources[name]()) == ours, f"{name} reads other rows"
    cpu_seconds: dict[str, list[float]] = {name: [] for name in sources}

    def read_all(name: str) -> None:
        start = time.process_time()
        for _ in islice(sources[name](), batches):
            pass
        cpu_seconds[name].append(time.process_time() - start)

    timings = interleaved({name: lambda n=name: read_all(n) for name in sources}, rounds=rounds)
    millions = batches * ROWS * seq_len / 1e6
    return [
        {
            "seq_len": seq_len,
            "reader": name,
            "Mtok/s": millions / timing.median,
            "Mtok/CPU-s": millions / statistics.median(cpu_seconds[name][1:]),  # the first is the warm-up
            "spread": timing.spread,
        }
        for name, timing in timings.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=256 * ROWS * 8192, help="a multiple of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.append(str(PEERS))  # last: what is installed for the project stays
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        plan, raw = make_tokens(Path(folder), options.tokens)
        rows = []
        for seq_len in (2048, 8192):
            peers = {
                "litdata TokensLoader": litdata_rows(raw, seq_len, Path(folder, f"litdata-{seq_len}")),
                "MosaicML streaming": streaming_rows(raw, seq_len, Path(folder, f"streaming-{seq_len}")),
            }
            rows += measure(plan, raw, seq_len, options.rounds, peers)
    print(table(rows))
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        large = trillion(Path(folder))
    print(table(large))
    known = versions("llama3", "numpy", "torch", "litdata", "mosaicml-streaming")
    facts = {"tokens": options.tokens, "rounds": options.rounds, "versions": known}
    print(write_results("loader", {**facts, "rows": rows, "trillion": large}))


if __name__ == "__main__":
    main()
