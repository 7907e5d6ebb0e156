"""How fast n-grams are found in token shards, beside Python that does the same work in two ways: a dictionary of every
n-gram of the shards, and a set of the n-grams that are asked for, held against every window.

All candidates must give the same counts before anything is timed. Tokens are of this Python's standard library; half of
the n-grams that are asked for are drawn from the shards, half are drawn and changed in one token. All compute in one
thread, whose time on the processor counts, so that a machine at other work says the same. Memory is what a process of
its own adds at its peak, the mapped shards among it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import common
import numpy as np

from llama3 import _core
from llama3.data import ShardWriter
from llama3.data.ngrams import count_ngrams, draw_runs
from llama3.data.plan import TokenPlan
from llama3.tokenizer import Tokenizer

N = 50


def make_shards(folder: Path, limit_bytes: int) -> TokenPlan:
    texts = list(common.stdlib_texts(limit_bytes=limit_bytes))
    tokenizer = Tokenizer.train(texts[:200], vocab_size=4096)
    with ShardWriter(folder, tokenizer) as writer:
        writer.add(texts)
    return TokenPlan.load(folder)


def asked(plan: TokenPlan, count: int) -> np.ndarray:
    """N-grams of the shards, and as many that differ in one token."""
    drawn = draw_runs(plan, N, count // 2, seed=1).tokens
    changed = drawn.copy()
    place = np.random.default_rng(2).integers(N, size=len(drawn))
    changed[np.arange(len(drawn)), place] ^= 1
    return np.concatenate([drawn, changed])


def documents(plan: TokenPlan) -> Iterator[bytes]:
    """The tokens of each document, two bytes each."""
    for source in plan.sources:
        for path in plan.paths(source):
            shard = _core.Shard(path)
            for index in range(shard.documents):
                yield shard.document(index)[1].astype(np.uint16).tobytes()


def windows(tokens: bytes) -> Iterator[bytes]:
    return (tokens[at : at + 2 * N] for at in range(0, len(tokens) - 2 * N + 1, 2))


def by_rust(plan: TokenPlan, ngrams: np.ndarray) -> list[int]:
    return count_ngrams(plan, ngrams, N)[:, 0].tolist()


def by_dictionary(plan: TokenPlan, ngrams: np.ndarray) -> list[int]:
    index: Counter[bytes] = Counter()
    for tokens in documents(plan):
        index.update(windows(tokens))
    return [index[row.astype(np.uint16).tobytes()] for row in ngrams]


def by_set(plan: TokenPlan, ngrams: np.ndarray) -> list[int]:
    rows = [row.astype(np.uint16).tobytes() for row in ngrams]
    wanted = set(rows)
    found: Counter[bytes] = Counter()
    for tokens in documents(plan):
        found.update(window for window in windows(tokens) if window in wanted)
    return [found[row] for row in rows]


def peak_mb(work: Callable[[], object]) -> float:
    """What a forked process adds to its memory at its peak."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        work()
        os.write(write, str(status("VmHWM") - before).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        grown = pipe.read()
    os.waitpid(child, 0)
    return int(grown) / 1024


def status(name: str) -> int:
    """A figure of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bytes", type=int, default=8_000_000, help="of text")
    parser.add_argument("--ngrams", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    _core.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_shards(Path(scratch) / "shards", arguments.bytes)
        ngrams = asked(plan, arguments.ngrams)
        tokens = sum(source.tokens for source in plan.sources)
        candidates: dict[str, Callable[[], list[int]]] = {
            "llama3": partial(by_rust, plan, ngrams),
            "Python, dictionary of all n-grams": partial(by_dictionary, plan, ngrams),
            "Python, set of those asked for": partial(by_set, plan, ngrams),
        }
        counts = {name: run() for name, run in candidates.items()}
        different = [name for name, found in counts.items() if found != counts["llama3"]]
        if different:
            raise SystemExit(f"other counts than ours: {', '.join(different)}")
        memory = {name: peak_mb(run) for name, run in candidates.items()}
        timings = common.interleaved(candidates, rounds=arguments.rounds, clock=time.process_time)
    ours = timings["llama3"].median
    rows: list[Mapping[str, object]] = [
        {
            "candidate": name,
            "M tokens/s": tokens / timing.median / 1e6,
            "llama3 is faster by": timing.median / ours,
            "spread": timing.spread,
            "peak MB": memory[name],
        }
        for name, timing in timings.items()
    ]
    print(common.table(rows))
    occur = sum(count > 0 for count in counts["llama3"])
    print(f"{tokens:,} tokens; of {len(ngrams):,} {N}-grams {occur:,} occur; all candidates count the same")
    path = common.write_results(
        "memorisation",
        {
            "command": "make bench-memorisation",
            "versions": common.versions("numpy"),
            "work": {"tokens": tokens, "ngrams": len(ngrams), "n": N, "occur": occur},
            "timings": {name: timing.summary() for name, timing in timings.items()},
            "peak_mb": memory,
        },
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
