"""Small plans of token shards for the loader's tests, and what their rows must be, as plainly as possible."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from llama3 import _core
from llama3.data.plan import ShardEntry, SourceEntry, TokenPlan

TOKENIZER = "ab" * 32
Document = tuple[int, list[int]]


def write_shard(path: Path, documents: list[Document], vocab_size: int) -> ShardEntry:
    writer = _core.ShardWriter(str(path), vocab_size=vocab_size, tokenizer_hash=TOKENIZER)
    for identity, tokens in documents:
        starts = np.array([0, len(tokens)], np.uint64)
        writer.append(np.array(tokens, np.uint32), starts, np.array([identity], np.uint64))
    tokens, count, root = writer.finish()
    return ShardEntry(path=path.name, tokens=tokens, documents=count, root=root)


def make_plan(
    folder: Path, *, seed: int = 0, sources: int = 3, vocab_size: int = 300, documents: int = 30
) -> tuple[TokenPlan, dict[str, list[Document]]]:
    """A saved plan of random documents in two shards per source, and each source's documents in order."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    entries, content = [], {}
    for s in range(sources):
        shards, content[f"source-{s}"] = [], []
        for n in range(2):
            batch = [
                (draw.getrandbits(64), [draw.randrange(vocab_size) for _ in range(draw.randrange(1, 60))])
                for _ in range(documents)
            ]
            shards.append(write_shard(folder / f"{s}-{n}.tok", batch, vocab_size))
            content[f"source-{s}"] += batch
        entries.append(SourceEntry(name=f"source-{s}", shards=shards))
    plan = TokenPlan(tokenizer=TOKENIZER, vocab_size=vocab_size, sources=entries)
    plan.save(folder)
    return TokenPlan.load(folder), content


def oracle_row(documents: list[Document], window: int, seq_len: int) -> dict[str, list[int]]:
    """Window `window` of a source's concatenated documents."""
    stream = [(token, identity, i) for identity, tokens in documents for i, token in enumerate(tokens)]
    row = stream[window * seq_len : (window + 1) * seq_len]
    starts = [at for at in range(seq_len) if at == 0 or row[at][2] == 0]
    segment = [max(start for start in starts if start <= at) for at in range(seq_len)]
    return {
        "tokens": [token for token, _, _ in row],
        "cu_seqlens": [*starts, seq_len],
        "doc_ids": [row[start][1] for start in starts],
        "positions": [at - segment[at] for at in range(seq_len)],
    }
