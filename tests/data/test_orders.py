"""A corpus is the same to the byte, however many threads make it and in whatever order a source lists its shards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_texts import prose

from llama3 import _core
from llama3.config.schema import Config
from llama3.data.curate import CurateOptions
from llama3.data.documents import DocumentBatch, ShardRef, Source
from llama3.plugins.registry import discover


class Shuffled:
    """A source that lists its shards in another order."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def shards(self) -> list[ShardRef]:
        shards = self.source.shards()
        random.Random(self.seed).shuffle(shards)
        return shards

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        return self.source.read(shard)


def crowd(folder: Path) -> Path:
    """60 files of 12 families of near copies, with lines that many have."""
    rng = random.Random(4)
    folder.mkdir()
    for n in range(60):
        words = prose(n % 12, 150).split()
        for _ in range(rng.choice([0, 1, 3, 9])):
            words.insert(rng.randrange(len(words)), f"new{n}")
        (folder / f"{n:02}.jsonl").write_text(f'{{"text": "{" ".join(words)}\\nHome\\nPage {n} of {rng.random()}"}}\n')
    return folder


def test_threads_and_orders_of_shards_change_no_byte(
    tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"sources": [{"name": "jsonl", "path": str(crowd(tmp_path / "in"))}], "held_out": 0.2}
    plain = discover().build("sources", "jsonl", {"path": str(tmp_path / "in")})
    assert len(plain.shards()) > 20
    before, made, found = _core.num_threads(), [], set()
    try:
        for threads, seed in ((1, 0), (2, 1), (4, 2), (4, 3)):
            _core.set_num_threads(threads)
            source = Shuffled(plain, seed)
            assert source.shards() != plain.shards()
            monkeypatch.setattr("llama3.data.curating.build_sources", lambda slots, source=source: [source])
            found.add(CurateOptions.of(Config.model_validate({"data": section})).found)
            corpus, out = curated(**section)
            files = [file for file in corpus.path.rglob("*") if file.is_file()]
            made.append((out.metrics, {str(file.relative_to(corpus.path)): file.read_bytes() for file in files}))
    finally:
        _core.set_num_threads(before)
    assert made[0][0]["rejects"]["near.near_duplicate"] > 20
    assert made[0][0]["lines"]["dropped"] > 10
    assert len(found) == 1
    assert all(other == made[0] for other in made[1:])
