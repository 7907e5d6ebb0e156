"""The books of a curation: what was taken out and why, and how much was left after every stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.artifacts.files import write_json_atomic
from llama3.data.documents import Reject

REJECT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # "" for records that never became a document
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),  # similarity, filter score or bytes; NaN where the reason has none
        ("where", pa.string()),  # file, file:line or URL, for records that could not be read
        ("detail", pa.string()),
    ]
)


class RejectLog:
    """Writes the reject log as it grows; memory is bounded."""

    def __init__(self, path: Path) -> None:
        self.counts: dict[str, int] = {}
        self._writer = pq.ParquetWriter(path, REJECT_SCHEMA, compression="zstd")

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.close()

    def add(self, stage: str, rejects: Iterable[Reject]) -> None:
        """Logs what `stage` took out, and counts it as "stage.reason"."""
        remaining = iter(rejects)
        while some := list(islice(remaining, 4096)):
            rows = [
                {
                    "id": reject.id,
                    "source": reject.source,
                    "stage": stage,
                    "reason": reject.reason,
                    "score": reject.score,
                    "where": reject.where,
                    "detail": reject.detail,
                }
                for reject in some
            ]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=REJECT_SCHEMA))
            for key, count in Counter(f"{stage}.{reject.reason}" for reject in some).items():
                self.counts[key] = self.counts.get(key, 0) + count


class Funnel:
    """Documents and bytes after every stage, by source. Deterministic: it enters the manifest."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, dict[str, int]]] = {}

    def count(self, stage: str, sources: Sequence[str], bytes_N: np.ndarray, kept_N: np.ndarray | None = None) -> None:
        """Adds documents that came through `stage`; `kept_N` leaves some out."""
        by_source = self.stages.setdefault(stage, {})
        labels = np.asarray(sources, dtype=object)
        keep = np.ones(len(labels), bool) if kept_N is None else kept_N
        for source in sorted(set(sources)):
            here = keep & (labels == source)
            cell = by_source.setdefault(source, {"documents": 0, "bytes": 0})
            cell["documents"] += int(here.sum())
            cell["bytes"] += int(bytes_N[here].sum())

    def documents(self, stage: str) -> int:
        """Documents left after a stage."""
        return sum(cell["documents"] for cell in self.stages.get(stage, {}).values())

    def write(self, path: Path) -> None:
        content: dict[str, Any] = self.stages
        write_json_atomic(path, content)
