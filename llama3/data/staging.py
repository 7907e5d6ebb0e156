"""The documents of a curation on their way: text on disk, a file per shard; ids, sizes and band keys in memory.

Letters: N documents staged, B bands, D documents of a batch.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3 import _core
from llama3.artifacts.files import fsync_file
from llama3.data.columns import printable
from llama3.data.dedup import Deduplicator
from llama3.data.documents import SCHEMA, DocumentBatch, Reject, ShardRef
from llama3.data.urls import date_key, normalised_url

ROWS = 4096
GROUP_BYTES = 16 << 20
"""Text of a row group, above which the next document begins another."""
FACTS = ".npz"
STAGED = pa.schema([*SCHEMA, ("shard", pa.string()), ("position", pa.int64())])


class Staged:
    """Documents on disk, a file per shard, and what the next steps need of them in memory.

    Documents are numbered in the order in which they were added; 16 bytes of id, 24 of address, date and language, and
    8 per band are kept of each.
    """

    def __init__(self, folder: Path, near: Deduplicator | None) -> None:
        self.folder, self.near = folder, near
        folder.mkdir(parents=True, exist_ok=True)
        self.files: list[Path] = []
        self._asked = 0
        self._sources: list[str] = []
        self._ids: list[str] = []
        self._bytes: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._pages: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, found: Iterator[DocumentBatch], shard: ShardRef) -> list[Reject]:
        """Stages a whole shard and returns its rejects; where reading fails nothing of it is staged. A shard that a
        killed process staged in this folder is not read again."""
        file = staged_file(self.folder, self._asked, shard)
        self._asked += 1
        if not file.exists():
            stage_shard(found, shard, file, self.near)
        known = pq.read_table(file, columns=["id", "source"])
        with np.load(file.with_suffix(FACTS)) as facts:
            self._bytes.append(facts["bytes_D"])
            self._pages.append(facts["pages_D3"])
            self._keys.append(facts["keys_DB"])
            rejects = [Reject(*row) for row in json.loads(facts["rejects"].tobytes())]
        self.files.append(file)
        self._sources.extend(known.column("source").to_pylist())
        self._ids.extend(known.column("id").to_pylist())
        return rejects

    @property
    def ids(self) -> list[str]:
        return self._ids

    @property
    def sources(self) -> list[str]:
        return self._sources

    @property
    def bytes_N(self) -> np.ndarray:
        return np.concatenate([np.empty(0, np.int64), *self._bytes])

    @property
    def pages_N3(self) -> np.ndarray:
        """uint64 [N, 3]: of each document a hash of its address (llama3.data.urls; 0: it has none), its date's number
        and a hash of its language."""
        return np.concatenate([np.empty((0, 3), np.uint64), *self._pages])

    def keys(self, rows: np.ndarray, by_language: bool) -> np.ndarray:
        """uint64 [D, B]: band keys of the documents with these numbers; by language, those of two share none."""
        keys_DB = np.concatenate(self._keys)[rows]
        if by_language:
            keys_DB ^= self.pages_N3[rows, 2:]
        return keys_DB

    def documents(self, keep_N: np.ndarray) -> Iterator[tuple[np.ndarray, DocumentBatch]]:
        """The documents where the mask is true, in order, with their numbers."""
        at = 0
        for path in self.files:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                end = at + file.metadata.row_group(group).num_rows
                # A group of which nothing is wanted is not read.
                for records in file.iter_batches(ROWS, row_groups=[group]) if keep_N[at:end].any() else ():
                    keep_D = keep_N[at : at + records.num_rows]
                    if keep_D.any():
                        yield at + np.flatnonzero(keep_D), DocumentBatch(records).take(keep_D)
                    at += records.num_rows
                at = end

    def texts(self, rows: np.ndarray) -> pa.Array:
        """The text of the documents with these (ascending) numbers."""
        wanted_N = np.zeros(len(self), bool)
        wanted_N[rows] = True
        chunks = [batch.records.column("text") for _, batch in self.documents(wanted_N)]
        return pa.chunked_array(chunks, pa.large_string()).combine_chunks()


def staged_file(folder: Path, number: int, shard: ShardRef) -> Path:
    """Where the shard that is read as the `number`-th lies: its name tells its content."""
    facts = (shard.source, shard.location, shard.part, shard.bytes, shard.stamp)
    return folder / f"{number:06}-{_core.blake3_bytes(repr(facts).encode('utf-8', 'surrogateescape'))}.parquet"


def stage_shard(found: Iterator[DocumentBatch], shard: ShardRef, file: Path, near: Deduplicator | None) -> None:
    """Writes the documents of a shard to `file`, and beside it what the next steps need of them. Whole, or nothing that
    counts, for `file` gets its name last; a shard depends on itself alone, so any process may do it, or two at once.
    """
    begun = file.with_suffix(f".{uuid.uuid4().hex}")
    facts = begun.with_suffix(f"{begun.suffix}{FACTS}")
    try:
        np.savez(facts, **_write_shard(found, shard, begun, near))  # type: ignore[arg-type]  # no name is an option
        for path, name in ((facts, file.with_suffix(FACTS)), (begun, file)):
            fsync_file(path)
            os.rename(path, name)
    finally:
        for path in (begun, facts):
            path.unlink(missing_ok=True)


def _write_shard(
    found: Iterator[DocumentBatch], shard: ShardRef, file: Path, near: Deduplicator | None
) -> dict[str, np.ndarray]:
    """Writes the documents; what `Staged` holds of them, and their rejects as JSON."""
    sizes, pages = [np.empty(0, np.int64)], [np.empty((0, 3), np.uint64)]
    keys = [np.empty((0, near.bands if near is not None else 0), np.uint64)]
    rejects: list[tuple[str, str, str, str, str, float]] = []
    position = 0
    with pq.ParquetWriter(file, STAGED, compression="zstd", compression_level=1) as writer:
        for batch in (piece for read in found for piece in _pieces(read)):
            rejects += [(r.where, r.reason, r.detail, r.source, r.id, float(r.score)) for r in batch.rejects]
            place = np.arange(position, position + len(batch))
            position += len(batch)
            batch = batch.with_column(
                "shard", pa.array([printable(f"{shard.location}#{shard.part}")] * len(batch), pa.string())
            )
            writer.write_batch(batch.with_column("position", pa.array(place)).records.select(STAGED.names), ROWS)
            sizes.append(batch.bytes_D)
            pages.append(_pages(batch))
            if near is not None:
                keys.append(near.keys(*batch.buffers))
    return {
        "bytes_D": np.concatenate(sizes),
        "pages_D3": np.concatenate(pages),
        "keys_DB": np.concatenate(keys),
        "rejects": np.frombuffer(json.dumps(rejects).encode(), np.uint8),
    }


def _pages(batch: DocumentBatch) -> np.ndarray:
    urls = [normalised_url(url) for url in batch.column("url")]
    languages = batch.column("language")
    of_language = {language: _hash(language) for language in set(languages)}
    columns = [
        [_hash(url) if url else 0 for url in urls],
        [date_key(date) for date in batch.column("date")],
        [of_language[language] for language in languages],
    ]
    return np.array(columns, np.uint64).T


def _hash(text: str) -> int:
    return int(_core.blake3_bytes(text.encode())[:16], 16)


def _pieces(batch: DocumentBatch) -> Iterator[DocumentBatch]:
    """A batch in pieces of bounded bytes, each document whole; the rejects go with the first."""
    ends_D = np.cumsum(batch.bytes_D)
    start = 0
    while start < len(batch) or start == 0:
        before = ends_D[start - 1] if start else 0
        stop = min(int(np.searchsorted(ends_D, before + GROUP_BYTES, "right")), start + ROWS)
        stop = max(stop, start + 1)
        records = batch.records.slice(start, stop - start)
        yield DocumentBatch(records, batch.rejects if start == 0 else ())
        start = stop
