"""The first step of a curation, `read shard -> keys`: the documents of a shard on disk, in portions, and beside them
what the next steps need to know.

A shard has a folder. Each portion in it is committed by itself (llama3.data.commits), so that a shard that was killed
half way goes on after its last portion; the shard counts when its own record is written. A shard depends on itself
alone: any process may read it, or two at once.

Letters: D documents of a portion, B bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3 import _core
from llama3.data.arrays import as_json, from_json, read_arrays, write_arrays
from llama3.data.bands import BandParameters, BandRun, write_run
from llama3.data.columns import printable
from llama3.data.commits import Begun, Commit, committed
from llama3.data.dedup import Deduplicator
from llama3.data.documents import SCHEMA, DocumentBatch, Labelling, Reject, ShardRef, id_bytes
from llama3.data.judging import labelled
from llama3.data.ledger import Losses
from llama3.data.tables import ParquetPart, open_parquet
from llama3.data.urls import date_key, normalised_url
from llama3.errors import DataError

ROWS = 4096
GROUP_BYTES = 16 << 20
"""Text of a row group, above which the next document begins another."""
PORTION_BYTES = 32 << 20
"""Text of a portion, above which the next row group begins another."""
TEXT, FACTS, KEYS = ".parquet", ".npz", ".run"
SHARD = "shard"
"""The record of a shard that is read to its end."""
QUARANTINED = "quarantined"
"""The portion of one that cannot be: it holds the reason alone."""
STAGED = pa.schema([*SCHEMA, ("shard", pa.string()), ("position", pa.int64())])


@dataclass(frozen=True)
class Reading:
    """How documents are read: what makes their band keys (None: none are wanted), and the filters that tell their
    languages."""

    near: Deduplicator | None = None
    by_language: bool = False
    labelling: Mapping[str, Labelling] | None = None

    @property
    def parameters(self) -> BandParameters | None:
        """What band keys are made with."""
        if self.near is None:
            return None
        return BandParameters(self.near.ngram, self.near.bands, self.near.rows, self.by_language)

    @property
    def schema(self) -> pa.Schema:
        """Of staged documents: STAGED, and what was measured of them already."""
        names = [f"{name}.{column}" for name, filter in (self.labelling or {}).items() for column in filter.measures]
        return pa.schema([*STAGED, *((name, pa.float64()) for name in names)])


class Portion:
    """Documents of a shard on disk: their text, facts and band keys. Opening reads none of it."""

    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        self.documents: int = commit["documents"]
        self.sources: list[str] = commit["sources"]

    def facts(self, *names: str) -> list[np.ndarray]:
        """Columns of facts: `bytes_D` int64, `ids_D16` uint8, `source_D` (a place in `sources`), and `pages_D3` uint64:
        a hash of each one's address (llama3.data.urls; 0: it has none), its date's number, a hash of its language."""
        facts = read_arrays(self.commit.files[FACTS], names)
        return [facts[name] for name in names]

    def rejects(self) -> list[Reject]:
        """What was met on the way to these documents and is none."""
        (rows,) = self.facts("rejects")
        return [Reject(*row) for row in from_json(rows)]

    def run(self) -> BandRun:
        """Band keys, sorted."""
        return BandRun(self.commit.files[KEYS])

    def text(self) -> ParquetPart:
        return open_parquet(self.commit.files[TEXT])

    def batches(self, keep_D: np.ndarray) -> Iterator[tuple[np.ndarray, DocumentBatch]]:
        """The documents where the mask is true, in order, with their numbers in this portion."""
        file, at = self.text(), 0
        for group in range(file.num_row_groups):
            end = at + file.metadata.row_group(group).num_rows
            # A group of which nothing is wanted is not read.
            for records in file.iter_batches(ROWS, row_groups=[group]) if keep_D[at:end].any() else ():
                keep = keep_D[at : at + records.num_rows]
                if keep.any():
                    yield at + np.flatnonzero(keep), DocumentBatch(records).take(keep)
                at += records.num_rows
            at = end


@dataclass(frozen=True)
class StagedShard:
    """A shard that was read, or could not be: then `quarantined` tells why, and its only portion has no document."""

    portions: list[Portion]
    losses: list[dict[str, Any]]
    quarantined: str
    hash: str


def shard_folder(folder: Path, number: int, shard: ShardRef) -> Path:
    """Where the shard that is read as the `number`-th lies: its name tells its content."""
    facts = (shard.source, shard.location, shard.part, shard.bytes, shard.stamp)
    return folder / f"{number:06}-{_core.blake3_bytes(repr(facts).encode('utf-8', 'surrogateescape'))}"


def staged_shard(folder: Path, *, check: bool = True) -> StagedShard | None:
    """The shard in this folder, where it was read to its end and nothing of it is damaged."""
    whole = committed(folder, SHARD)
    if whole is None:
        return None
    commits = [committed(folder, name, check=check) for name in whole["portions"]]
    portions = [Portion(commit) for commit in commits if commit is not None]
    if len(portions) < len(commits):
        return None
    content = (whole["quarantined"], [portion.commit.hash for portion in portions])
    return StagedShard(portions, whole["losses"], whole["quarantined"], _core.blake3_bytes(repr(content).encode()))


def stage_shard(
    found: Iterator[DocumentBatch], shard: ShardRef, folder: Path, reading: Reading, pool: Executor, threads: int = 1
) -> None:
    """Reads a shard to its end, after the portions that are there. Whole, or it is quarantined: then the record says
    why, and none of its documents is used. Holds `threads` + 1 portions; they are made on the threads of `pool`."""
    folder.mkdir(parents=True, exist_ok=True)
    losses, why = Losses(), ""
    losses.add(shard.unread)
    making: list[Future[None]] = []
    names: list[str] = []
    try:
        for number, (position, pieces) in enumerate(_portions(found)):
            rejects = [r for piece in pieces for r in piece.rejects]
            losses.add(rejects)
            names.append(f"{number:06}")
            if committed(folder, names[-1]) is None:
                known = rejects if number else [*shard.unread, *rejects]
                making.append(pool.submit(_make, folder, names[-1], position, pieces, known, shard, reading))
            while len(making) > threads:
                making.pop(0).result()
        for made in making:
            made.result()
    except DataError as error:
        names, why, losses = [QUARANTINED], str(error), Losses()
        rejects = [*shard.unread, Reject(place_of(shard), "shard_quarantined", why, shard.source)]
        losses.add(rejects)
        _make(folder, QUARANTINED, 0, [], rejects, shard, reading)
    finally:
        for made in making:
            made.cancel()
    with Begun(folder, SHARD) as begun:
        begun.commit({"portions": names, "losses": losses.rows, "quarantined": why})


def place_of(shard: ShardRef) -> str:
    """Where it lies, for people."""
    return printable(f"{shard.location}#{shard.part}")


def _portions(found: Iterator[DocumentBatch]) -> Iterator[tuple[int, list[DocumentBatch]]]:
    """(the number of its first document, its pieces) of every portion; there is one at least. A function of what is
    found alone."""
    pieces: list[DocumentBatch] = []
    first = at = size = 0
    for piece in (piece for batch in found for piece in _pieces(batch)):
        if pieces and size >= PORTION_BYTES:
            yield first, pieces
            pieces, first, size = [], at, 0
        pieces.append(piece)
        at += len(piece)
        size += int(piece.bytes_D.sum())
    yield first, pieces


def _make(
    folder: Path,
    name: str,
    position: int,
    pieces: Sequence[DocumentBatch],
    rejects: Sequence[Reject],
    shard: ShardRef,
    reading: Reading,
) -> None:
    """Writes a portion."""
    sizes, pages = [np.empty(0, np.int64)], [np.empty((0, 3), np.uint64)]
    ids, labels = [np.empty((0, 16), np.uint8)], list[str]()
    keys = [np.empty((0, reading.near.bands if reading.near is not None else 0), np.uint64)]
    with Begun(folder, name) as begun:
        with pq.ParquetWriter(begun.file(TEXT), reading.schema, compression="zstd", compression_level=1) as writer:
            for batch in pieces:
                batch = labelled(reading.labelling or {}, batch)
                columns = {name: batch.records.column(name) for name in SCHEMA.names}
                columns |= {"shard": pa.array([place_of(shard)] * len(batch), pa.string())}
                columns |= {"position": pa.array(np.arange(position, position + len(batch)))}
                columns |= {name: pa.array(values) for name, values in batch.features.items()}
                position += len(batch)
                writer.write_batch(pa.record_batch(columns, schema=reading.schema), ROWS)
                sizes.append(batch.bytes_D)
                pages.append(_pages(batch))
                ids.append(id_bytes(batch.column("id")))
                labels += batch.column("source")
                if reading.near is not None:
                    found = reading.near.keys(*batch.buffers)
                    keys.append(found ^ pages[-1][:, 2:] if reading.by_language else found)
        sources = sorted(set(labels))
        places = {label: place for place, label in enumerate(sources)}
        rows = [(r.where, r.reason, r.detail, r.source, r.id, float(r.score)) for r in rejects]
        facts: dict[str, np.ndarray] = {
            "bytes_D": np.concatenate(sizes),
            "ids_D16": np.concatenate(ids),
            "source_D": np.array([places[label] for label in labels], np.uint16),
            "pages_D3": np.concatenate(pages),
            "rejects": as_json(rows),
        }
        write_arrays(begun.file(FACTS), facts)
        if reading.parameters is not None:
            write_run(begun.file(KEYS), np.concatenate(keys), reading.parameters)
        begun.commit({"documents": len(labels), "sources": sources})


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
