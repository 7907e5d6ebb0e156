"""Token loading: shuffled rows of int64 tokens, ours beside a NumPy memmap gather and torch's DataLoader.

All read the same windows in the same order from the same tokens (checked first). Ours does more in its time: it
computes the order, verifies checksums, and finds the document starts of every row; the peers are handed the order.
The tokens are in the page cache. Figures are million tokens per second: of wall time, and of this process's CPU time
(which leaves out what a DataLoader's worker spends), as medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
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


def measure(plan: TokenPlan, raw: np.ndarray, seq_len: int, rounds: int) -> list[dict[str, object]]:
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
            assert torch.equal(mine, theirs), f"{name} reads other tokens"
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
    parser.add_argument("--tokens", type=int, default=32_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        plan, raw = make_tokens(Path(folder), options.tokens)
        rows = [row for seq_len in (2048, 8192) for row in measure(plan, raw, seq_len, options.rounds)]
    print(table(rows))
    facts = {"tokens": options.tokens, "rounds": options.rounds, "versions": versions("llama3", "numpy", "torch")}
    print(write_results("loader", {**facts, "rows": rows}))


if __name__ == "__main__":
    main()
