"""Documents on disk, as the first step of a curation leaves them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llama3.data.documents import DocumentBatch, ShardRef
from llama3.data.staging import Reading, StagedShard, shard_folder, stage_shard, staged_shard


def staged(
    folder: Path, number: int, batches: Iterable[DocumentBatch], reading: Reading | None = None, threads: int = 2
) -> StagedShard:
    """A shard of these batches."""
    shard = ShardRef("s", f"here/{number}")
    place = shard_folder(folder, number, shard)
    with ThreadPoolExecutor(threads) as pool:
        stage_shard(iter(batches), shard, place, reading or Reading(), pool, threads)
    found = staged_shard(place)
    assert found is not None
    return found
