"""A corpus cut by other limits, from the numbers that are recorded of its documents: no text is scanned again.

Letters: N documents that were judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llama3.data.corpus import OF_DOCUMENT, SCORES, STAMPS
from llama3.data.documents import SCHEMA, DocumentBatch, Filter, Judgement
from llama3.data.judging import judged, recorded, stamps
from llama3.data.tables import Table
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
    why_N: np.ndarray
    """int32: 0 where every filter keeps it, else 1 + the place in `reasons` of why the first that says no does so."""
    score_N: np.ndarray
    """float64: the score of that filter; NaN where it stays."""
    reasons: list[tuple[str, str]]
    """(filter, reason), each once."""

    @property
    def keep_N(self) -> np.ndarray:
        return self.why_N == 0

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
        found = np.bincount(self.why_N, minlength=len(self.reasons) + 1)[1:].tolist()
        told = Counter({f"filter.{name}.{why}": n for (name, why), n in zip(self.reasons, found, strict=True)})
        return {name: int(count) for name, count in counts.items()} | {"removed": dict(told.most_common())}


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
    whys, scores = [np.empty(0, np.int32)], [np.empty(0)]
    places: dict[tuple[str, str], int] = {}
    for records in table.batches():
        batch = _without_text(records, recorded(filters))
        why_D, score_D = np.zeros(len(batch), np.int32), np.full(len(batch), np.nan)
        for name, filter in filters.items():
            judgement = _judged(place, name, filter, batch)
            removed = np.flatnonzero((why_D == 0) & ~judgement.keep_D).tolist()
            why_D[removed] = [places.setdefault((name, judgement.reason_D[d]), len(places) + 1) for d in removed]
            score_D[removed] = judgement.score_D[removed]
        whys.append(why_D)
        scores.append(score_D)
    return Cut(table.read(), np.concatenate(whys), np.concatenate(scores), list(places))


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
