"""A corpus cut by other limits, from the numbers that are recorded of its documents: no text is scanned again.

Letters: N documents that were judged.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.artifacts.files import fsync_tree, publish, temporary_beside, write_json_atomic
from llama3.data.corpus import DOCUMENTS, OF_DOCUMENT, SCORES, STAMPS
from llama3.data.documents import SCHEMA, DocumentBatch, Filter, Judgement
from llama3.data.judging import judged, recorded, stamps
from llama3.data.tables import Table, batches, part_name
from llama3.errors import DataError, PluginError

READS_TEXT = DataError.declare(
    "L3-DAT-266",
    "filter {filter!r} reads the {what} of documents, which is not recorded",
    why="it would judge nothing",
    fix="curate with it, or have it measure what it reads (llama3.filters.Measuring): that is recorded",
)
NOT_RECORDED = DataError.declare(
    "L3-DAT-263",
    "filter {filter!r} reads what is not recorded here: {missing}",
    fix="curate with this filter once, with limits as wide as you like",
)
CHANGED_FILES = DataError.declare(
    "L3-DAT-274",
    "filter {filter!r} has read other lists or another model than when the scores were made",
    why="what is recorded does not tell what the new ones would find",
    fix="curate again, or give it the files of then",
)
IN_THE_WAY = DataError.declare("L3-DAT-264", "is there already", fix="give --out a new folder")


class NotRecorded(Exception):  # noqa: N818
    """A filter reads what is not recorded."""


class RecordedBatch(DocumentBatch):
    """Documents of which numbers are known, and some columns, but not the text."""

    @property
    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        raise NotRecorded("text")

    def column(self, name: str) -> list[str]:
        if name not in OF_DOCUMENT:
            raise NotRecorded(name)
        return super().column(name)


@dataclass(frozen=True)
class Cut:
    """Which of N documents stay, by new limits and by those before."""

    scores: pa.Table
    keep_N: np.ndarray
    reasons: dict[str, int]
    """ "filter.reason" to documents; the first filter that says no has them."""

    @property
    def kept_N(self) -> np.ndarray:
        """By the limits with which the corpus was made."""
        return np.asarray(self.scores.column("kept"), bool)

    def figures(self) -> dict[str, Any]:
        """Documents judged, kept before and now, those that go, and those that would come back (their text is not
        here)."""
        before, now = self.kept_N, self.keep_N
        counts = {"judged": len(now), "kept_before": before.sum(), "kept": now.sum()}
        counts |= {"go": (before & ~now).sum(), "would_come_back": (now & ~before).sum()}
        return {name: int(count) for name, count in counts.items()} | {"removed": self.reasons}


def recut(place: Path, filters: Mapping[str, Filter]) -> Cut:
    """Judges all documents of the corpus in this folder again. Raises DataError with all filters that read what is not
    recorded (L3-DAT-263), or other files than then (L3-DAT-274)."""
    table = Table(place / SCORES)
    names = table.schema.names
    then = stamps_of(place)
    problems = [
        CHANGED_FILES.problem(place, filter=name) for name, stamp in stamps(filters) if stamp != then.get(name, "")
    ]
    for name, filter in filters.items():
        if missing := sorted({*recorded({name: filter}), "kind", "language"} - set(names)):
            problems.append(NOT_RECORDED.problem(place, filter=name, missing=missing))
    if problems:
        raise DataError.of(problems)
    keeps: list[np.ndarray] = []
    reasons = Counter[str]()
    for records in table.batches():
        batch = _without_text(records, recorded(filters))
        keep_D = np.ones(len(batch), bool)
        for name, filter in filters.items():
            judgement = _judged(place, name, filter, batch)
            removed = np.flatnonzero(keep_D & ~judgement.keep_D).tolist()
            reasons.update(f"filter.{name}.{judgement.reason_D[d]}" for d in removed)
            keep_D &= judgement.keep_D
        keeps.append(keep_D)
    return Cut(table.read(), np.concatenate([np.empty(0, bool), *keeps]), dict(reasons.most_common()))


def stamps_of(place: Path) -> dict[str, str]:
    """What each filter of a corpus had read of files, by hash."""
    file = place / STAMPS
    return dict(json.loads(file.read_bytes())) if file.is_file() else {}


def _judged(place: Path, name: str, filter: Filter, batch: DocumentBatch) -> Judgement:
    try:
        return judged(name, filter, batch)
    except PluginError as error:
        if isinstance(error.__cause__, NotRecorded):
            raise READS_TEXT(place, filter=name, what=error.__cause__) from error
        raise


def _without_text(records: pa.RecordBatch, columns: Iterable[str]) -> DocumentBatch:
    """Recorded numbers as a batch whose other columns are empty but for those that judgements read."""
    empty = {field.name: pa.array([""] * records.num_rows, field.type) for field in SCHEMA}
    known = {name: records.column(name) for name in OF_DOCUMENT}
    features = {name: np.asarray(records.column(name)) for name in columns}
    return RecordedBatch(pa.record_batch(empty | known, schema=SCHEMA), features=features)


def write_cut(place: Path, cut: Cut, out: str | os.PathLike[str]) -> int:
    """Writes the documents that stay, and their scores, as a corpus in a new folder; how many. Those that would come
    back are not in it. Raises DataError (L3-DAT-264) where something is there."""
    target = Path(out)
    if target.exists():
        raise IN_THE_WAY(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_beside(target)
    partial.mkdir()
    documents = Table(place / DOCUMENTS)
    stays = iter(zip(cut.scores.column("id").to_pylist(), cut.keep_N.tolist(), strict=True))
    written = 0
    for table in (DOCUMENTS, SCORES):
        (partial / table).mkdir()
    for number, part in enumerate(documents.parts()):
        with pq.ParquetWriter(partial / DOCUMENTS / part_name(number), documents.schema, compression="zstd") as writer:
            for records in batches(part, 4096):
                # The documents are some of the judged ones, in the same order.
                keep = [next(keep for id, keep in stays if id == wanted) for wanted in records.column("id").to_pylist()]
                writer.write_batch(records.filter(pa.array(keep, pa.bool_())))
                written += sum(keep)
    kept = pa.array(cut.kept_N & cut.keep_N)
    scores = cut.scores.set_column(cut.scores.schema.get_field_index("kept"), "kept", kept)
    pq.write_table(scores, partial / SCORES / part_name(0), compression="zstd")
    write_json_atomic(partial / STAMPS, stamps_of(place))
    fsync_tree(partial)
    publish(partial, target)
    return written
