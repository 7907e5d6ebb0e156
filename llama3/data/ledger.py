"""The books of a curation: what was taken out and why, and how much was left after every stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.artifacts.files import write_json_atomic
from llama3.data.columns import printable
from llama3.data.corpus import SPLITS
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


MOST_REASONS = 100
"""Of one stage that are counted by name: a filter may give a reason of its own for every document."""
OTHER_REASONS = "other_reasons"


def count_reason(counts: dict[str, int], stage: str, reason: str, number: int = 1) -> None:
    """Adds to how many `stage` took out for a reason, by "stage.reason"."""
    key = f"{stage}.{reason}"
    if key not in counts and sum(known.startswith(f"{stage}.") for known in counts) >= MOST_REASONS:
        key = f"{stage}.{OTHER_REASONS}"
    counts[key] = counts.get(key, 0) + number


class RejectLog:
    """Writes the reject log as it grows; memory is bounded."""

    ROWS = 4096

    def __init__(self, path: Path) -> None:
        self.counts: dict[str, int] = {}
        self._writer = pq.ParquetWriter(path, REJECT_SCHEMA, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._write()
        finally:
            self._writer.close()

    def add(self, stage: str, rejects: Iterable[Reject]) -> None:
        """Logs what `stage` took out, and counts it as "stage.reason"."""
        for reject in rejects:
            self._rows.append(
                {
                    "id": reject.id,
                    "source": reject.source,
                    "stage": stage,
                    "reason": reject.reason,
                    "score": reject.score,
                    "where": printable(reject.where),
                    "detail": printable(reject.detail),
                }
            )
            count_reason(self.counts, stage, reject.reason)
            if len(self._rows) >= self.ROWS:
                self._write()

    def copy(self, records: pa.RecordBatch) -> None:
        """Takes over rows of another log."""
        self._write()
        self._writer.write_batch(records)
        stages, reasons = (records.column(name).to_pylist() for name in ("stage", "reason"))
        for stage, reason in zip(stages, reasons, strict=True):
            count_reason(self.counts, stage, reason)

    def _write(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=REJECT_SCHEMA))
            self._rows.clear()


class Losses:
    """What of the input never became a document, by source and reason, with some examples: small enough for a
    manifest, a console and a report."""

    EXAMPLES = 3
    MOST_DETAIL = 500

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, rejects: Iterable[Reject]) -> None:
        """Counts what was rejected while reading."""
        for reject in rejects:
            row = self._rows.setdefault(
                (reject.source, reject.reason),
                {"source": reject.source, "reason": reject.reason, "count": 0, "examples": []},
            )
            row["count"] += 1
            if len(row["examples"]) < self.EXAMPLES:
                row["examples"].append(
                    {"where": printable(reject.where), "detail": printable(reject.detail)[: self.MOST_DETAIL]}
                )

    def join(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes up the rows of another part of the input, which comes later."""
        for more in rows:
            row = self._rows.setdefault((more["source"], more["reason"]), {**more, "count": 0, "examples": []})
            row["count"] += more["count"]
            row["examples"] += more["examples"][: self.EXAMPLES - len(row["examples"])]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Whole shards first, then by source and reason."""
        order = lambda key: (key[1] != "shard_quarantined", key)
        return [self._rows[key] for key in sorted(self._rows, key=order)]


def lost_input(metrics: Mapping[str, Any]) -> list[str]:
    """What a corpus lacks of its input, a line for each source and reason, each filter that had no model, and each
    stage that took out more than is usual, from the metrics of the artifact."""
    lines = []
    for loss in metrics.get("losses", []):
        first, count = loss["examples"][0], loss["count"]
        whole = loss["reason"] == "shard_quarantined"
        what = f"{count} of {metrics['shards']} shards" if whole else f"{count} x {loss['reason']}"
        more = f", and {count - 1} more (the table rejects names all)" if count > 1 else ""
        detail = f": {first['detail']}" if first["detail"] and not whole else ""
        where = first["detail"] if whole else f"{first['where']}{detail}"
        lines.append(f"source {loss['source']!r}: not read: {what}: {where}{more}")
    lines += [f"filter {name!r} has no model and judged nothing" for name in metrics.get("without_model", [])]
    return lines + [told_alarm(alarm) for alarm in metrics.get("alarms", [])]


LEAST = 20
"""Documents of a source below which a share of them says nothing."""


def removal_alarms(
    funnel: Mapping[str, Mapping[str, Mapping[str, int]]], rejects: Mapping[str, int], most: float
) -> list[dict[str, Any]]:
    """Every stage and source where more than `most` of the documents, or of their bytes, were taken out: {stage,
    source, removed, of, reasons}, `removed` being the larger share and `reasons` how often the stage had each, in all
    sources."""
    stages = [stage for stage in funnel if stage not in SPLITS]
    alarms = []
    for before, stage in pairwise(stages):
        for source, had in funnel[before].items():
            has = funnel[stage].get(source, {"documents": 0, "bytes": 0})
            removed = max(1 - has[unit] / max(had[unit], 1) for unit in ("documents", "bytes"))
            if removed > most and had["documents"] >= LEAST:
                reasons = {
                    key.removeprefix(f"{stage}."): n for key, n in rejects.items() if key.startswith(f"{stage}.")
                }
                row = {"stage": stage, "source": source, "removed": round(removed, 4), "of": had["documents"]}
                alarms.append({**row, "reasons": reasons})
    return alarms


def told_benchmarks(metrics: Mapping[str, Any]) -> list[str]:
    """What was found of each benchmark, a line for each, from the metrics of the artifact."""
    return [
        f"{name}: {row['examples']:,} examples, {row['too_short']:,} too short to be found, {row['found']:,} found in "
        f"{row['documents']:,} documents, {row['left']:,} left"
        for name, row in metrics.get("decontamination", {}).items()
    ]


def told_alarm(alarm: Mapping[str, Any]) -> str:
    """An alarm as a sentence."""
    reasons = sorted(alarm["reasons"], key=lambda reason: (-alarm["reasons"][reason], reason))[:3]
    why = f", mostly {', '.join(reasons)}" if reasons else ""
    share = f"{100 * alarm['removed']:.1f} % of {alarm['of']:,} documents or of their text"
    return f"source {alarm['source']!r}: {alarm['stage']} took out {share}{why}"


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

    def join(self, stages: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
        """Adds what was counted of other documents."""
        for stage, by_source in stages.items():
            own = self.stages.setdefault(stage, {})
            for source, cell in by_source.items():
                mine = own.setdefault(source, {"documents": 0, "bytes": 0})
                for unit, count in cell.items():
                    mine[unit] += count

    def in_order(self, stages: Sequence[str]) -> None:
        """Sorts the stages, and in each the sources."""
        self.stages = {stage: dict(sorted(self.stages[stage].items())) for stage in stages if stage in self.stages}

    def documents(self, stage: str) -> int:
        """Documents left after a stage."""
        return sum(cell["documents"] for cell in self.stages.get(stage, {}).values())

    def write(self, path: Path) -> None:
        content: dict[str, Any] = self.stages
        write_json_atomic(path, content)
