"""Reading the `corpus` artifact. It is in parts: its tables are folders of `000000.parquet`, `000001.parquet` and so on
(llama3.data.tables), and the parts of one number tell of the same documents.

documents/      the documents that stayed: SCHEMA, shard, position, lines_dropped, split
scores/         id, source, kind, language, kept, and for every judged document the scores and statistics of the filters
edits/          id, filter, kind, start, end of every part of a document that a filter replaced, if some may
rejects/        id, source, stage, reason, score, where, detail of everything that was taken out
bands/          `000000.run`: band keys of the documents that stayed, in their order (layout: llama3.data.bands)
funnel.json     documents and bytes after every stage, by source
stamps.json     hash of what each filter has read of files
samples.jsonl   of every reason some documents, as they were read and as they stayed; a corpus that was cut from another
                (llama3.data.cut_corpus) has none
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

from llama3 import _core
from llama3.data.documents import DocumentBatch
from llama3.data.tables import Table
from llama3.errors import ConfigError

NO_CORPUS = ConfigError.declare(
    "L3-DAT-231", "is no corpus, and no run that has made one", fix="make one: llama3 data curate"
)

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

DOCUMENTS, SCORES, REJECTS, EDITED, BANDS = "documents", "scores", "rejects", "edits", "bands"
FUNNEL, STAMPS = "funnel.json", "stamps.json"
OF_DOCUMENT = ("id", "source", "kind", "language")
"""Columns of documents that stand beside their scores."""
CORPUS_IN_RUN = "artifacts/curate"


def corpus_at(path: Path) -> Path:
    """The folder of the corpus that a path names. Raises ConfigError (L3-DAT-231)."""
    for place in (path, path / CORPUS_IN_RUN):
        if (place / DOCUMENTS).is_dir():
            return place
    raise NO_CORPUS(path)


class Corpus:
    """A curated corpus on disk. Opening reads no text."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._documents = Table(self.path / DOCUMENTS)

    def __len__(self) -> int:
        return len(self._documents)

    def documents(
        self, split: Split | None = "train", source: str | None = None, batch_size: int = 1024
    ) -> Iterator[DocumentBatch]:
        """Documents of a split (None: all) and a source (None: all), in the corpus' order."""
        for records in self._documents.batches(batch_size):
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
        for records in self._documents.batches(columns=["source", "split", "text"]):
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
        return Table(self.path / REJECTS).read()

    def scores(self) -> pa.Table:
        """Scores and statistics of every document that reached the filters."""
        return Table(self.path / SCORES).read()


def split_of(origin: str, held_out: float) -> Split:
    """The side of the split on which all documents of an origin fall: a pure function of its name."""
    return "held_out" if place_of(origin) < held_out else "train"


def place_of(origin: str) -> float:
    """From 0 to 1, evenly: those of the lowest places are held out."""
    return int(_core.blake3_bytes(origin.encode())[:16], 16) / 2**64
