"""Reading the `corpus` artifact.

documents.parquet   the documents that stayed: SCHEMA, shard, position, lines_dropped, split
scores.parquet      id, source, kind, language, kept, and for every judged document the scores and statistics of the
                    filters
edits.parquet       id, filter, kind, start, end of every part of a document that a filter replaced, if some may
rejects.parquet     id, source, stage, reason, score, where, detail of everything that was taken out
funnel.json         documents and bytes after every stage, by source
bands.run           band keys of the documents that stayed, in their order (layout: llama3.data.bands)
samples.jsonl       of every reason some documents, as they were read and as they stayed
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llama3.data.columns import printable
from llama3.data.documents import DocumentBatch
from llama3.errors import ConfigError, DataError

UNREADABLE = DataError.declare("L3-DAT-110", "cannot be read as Parquet", why="{error}")

NO_CORPUS = ConfigError.declare(
    "L3-DAT-231", "is no corpus, and no run that has made one", fix="make one: llama3 data curate"
)

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

DOCUMENTS, SCORES, REJECTS, FUNNEL = "documents.parquet", "scores.parquet", "rejects.parquet", "funnel.json"
EDITED, BANDS = "edits.parquet", "bands.run"
OF_DOCUMENT = ("id", "source", "kind", "language")
"""Columns of documents that stand beside their scores."""
CORPUS_IN_RUN = "artifacts/curate"


def corpus_at(path: Path) -> Path:
    """The folder of the corpus that a path names. Raises ConfigError (L3-DAT-231)."""
    for place in (path, path / CORPUS_IN_RUN):
        if (place / DOCUMENTS).is_file():
            return place
    raise NO_CORPUS(path)


class Corpus:
    """A curated corpus on disk. Opening reads no text."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._documents = open_parquet(self.path / DOCUMENTS)

    def __len__(self) -> int:
        return self._documents.metadata.num_rows

    def documents(
        self, split: Split | None = "train", source: str | None = None, batch_size: int = 1024
    ) -> Iterator[DocumentBatch]:
        """Documents of a split (None: all) and a source (None: all), in the corpus' order."""
        for records in batches(self._documents, batch_size):
            keep = pa.array([True] * records.num_rows)
            if split is not None:
                keep = pc.equal(records.column("split"), split)
            if source is not None:
                keep = pc.and_(keep, pc.equal(records.column("source"), source))
            chosen = records.filter(keep)
            if chosen.num_rows:
                yield DocumentBatch(chosen)

    @cached_property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Split, then source, to {"documents", "bytes"}."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for records in batches(self._documents, columns=["source", "split", "text"]):
            sizes = pc.binary_length(records.column("text")).to_pylist()
            rows = zip(records.column("split").to_pylist(), records.column("source").to_pylist(), sizes, strict=True)
            for split, source, size in rows:
                cell = counts.setdefault(split, {}).setdefault(source, {"documents": 0, "bytes": 0})
                cell["documents"] += 1
                cell["bytes"] += size
        return counts

    @property
    def sources(self) -> list[str]:
        """Labels of all sources that have documents, sorted."""
        return sorted({source for by_source in self.counts.values() for source in by_source})

    @cached_property
    def funnel(self) -> dict[str, Any]:
        """Stage, then source, to {"documents", "bytes"}: what was left after each stage."""
        return json.loads((self.path / FUNNEL).read_text(encoding="utf-8"))

    def rejects(self) -> pa.Table:
        """The reject log."""
        return open_parquet(self.path / REJECTS).read()

    def scores(self) -> pa.Table:
        """Scores and statistics of every document that reached the filters."""
        return open_parquet(self.path / SCORES).read()


def batches(
    file: pq.ParquetFile, batch_size: int = 1 << 16, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, never of two row groups together: whoever writes a corpus bounds the bytes of a group, so
    that memory does not grow with the size of documents."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size, row_groups=[group], columns=columns)


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file; DataError where it is missing or damaged."""
    try:
        # Arrow opens no name that is not UTF-8; Python does.
        return pq.ParquetFile(path if printable(str(path)) == str(path) else path.open("rb"))
    except (OSError, pa.ArrowException) as error:
        raise UNREADABLE(printable(str(path)), error=str(error).splitlines()[0]) from error
