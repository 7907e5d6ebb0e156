"""The documents that stay of a corpus by other limits (llama3.data.recut), as a corpus of its own: with their band keys
and books, and a manifest that names the corpus it was cut from. So it can be used as every other one.

Letters: D documents of a part.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from llama3 import _core
from llama3.artifacts import Artifact, PluginUse, environment
from llama3.artifacts.artifact import Parent, StageRequest, write_manifest
from llama3.artifacts.files import canonical_json, fsync_tree, publish, temporary_beside, write_json_atomic
from llama3.config.slot_types import FilterSlot
from llama3.config.slots import choices, identities
from llama3.data.bands import BandRun, write_run
from llama3.data.corpus import BANDS, DOCUMENTS, EDITED, FUNNEL, REJECTS, SCORES, SPLITS, STAMPS, Corpus
from llama3.data.documents import Reject
from llama3.data.ledger import Funnel, RejectLog
from llama3.data.recut import Cut, stamps_of
from llama3.data.tables import Table, batches, open_parquet
from llama3.errors import DataError

IN_THE_WAY = DataError.declare("L3-DAT-264", "is there already", fix="give --out a new folder")
RECUT = "recut"
ROWS = 4096


class CutOptions(BaseModel):
    """By which filters a corpus was cut."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filters: list[FilterSlot]


def write_cut(corpus: Artifact, cut: Cut, filters: Sequence[FilterSlot], out: str | os.PathLike[str]) -> int:
    """Writes the documents that stay as a corpus in a new folder; how many. Those that would come back are not in it.

    Raises DataError (L3-DAT-264) where something is there, ArtifactError where the corpus is damaged."""
    target = Path(out)
    if target.exists():
        raise IN_THE_WAY(target)
    place = corpus.expect("corpus").path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_beside(target)
    try:
        partial.mkdir()
        rejects = dict.fromkeys(corpus.metrics["rejects"], 0)
        funnel = _write_tables(place, cut, partial, rejects)
        options = CutOptions(filters=list(filters))
        request = StageRequest(
            stage=RECUT,
            type="corpus",
            parents=[Parent(role="corpus", hash=corpus.hash)],
            config_hash=_core.blake3_bytes(canonical_json(options.model_dump(mode="json"))),
            plugins=[PluginUse(**row) for row in identities(choices(options)[0])],
        )
        books = {"funnel": funnel.stages, "rejects": rejects, RECUT: cut.figures()}
        write_manifest(partial, request, environment.code(), {**corpus.metrics, **books})
        fsync_tree(partial)
        publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return funnel.documents(RECUT)


def _write_tables(place: Path, cut: Cut, folder: Path, removed: dict[str, int]) -> Funnel:
    """All files of the new corpus; what is left of it. Adds to `removed` what its log of rejects has."""
    documents, scores = Table(place / DOCUMENTS), Table(place / SCORES)
    for table in (DOCUMENTS, SCORES, REJECTS, EDITED, BANDS):
        if (place / table).is_dir():
            (folder / table).mkdir()
    before = Corpus(place).funnel
    funnel = Funnel()
    funnel.join({stage: cells for stage, cells in before.items() if stage not in (RECUT, *SPLITS)})
    start = 0
    for file, judged in zip(documents.files, scores.files, strict=True):
        end = start + open_parquet(judged).metadata.num_rows
        own = replace(
            cut, scores=cut.scores.slice(start, end - start), why_N=cut.why_N[start:end], score_N=cut.score_N[start:end]
        )
        keep_D, gone = _write_documents(file, own, folder / DOCUMENTS / file.name, funnel)
        kept = pa.array(own.kept_N & own.keep_N)
        column = own.scores.schema.get_field_index("kept")
        pq.write_table(own.scores.set_column(column, "kept", kept), folder / SCORES / file.name, compression="zstd")
        _write_rejects(place / REJECTS / file.name, own, gone, folder / REJECTS / file.name, removed)
        if (folder / BANDS).is_dir():
            run = BandRun(place / BANDS / f"{file.stem}.run")
            write_run(folder / BANDS / f"{file.stem}.run", run.table()[keep_D], run.parameters)
        if (folder / EDITED).is_dir():
            edits = open_parquet(place / EDITED / file.name).read()
            went = own.scores.column("id").take(pa.array(gone, pa.int64()))
            left = pc.invert(pc.is_in(edits.column("id"), went))
            pq.write_table(edits.filter(left), folder / EDITED / file.name, compression="zstd")
        start = end
    funnel.in_order([*(stage for stage in before if stage not in (RECUT, *SPLITS)), RECUT, *SPLITS])
    funnel.write(folder / FUNNEL)
    write_json_atomic(folder / STAMPS, stamps_of(place))
    return funnel


def _write_documents(file: Path, cut: Cut, target: Path, funnel: Funnel) -> tuple[np.ndarray, list[int]]:
    """The documents of a part that stay; which did, and the rows in the part's scores of those that did not."""
    # The documents are some of the judged ones, in the same order.
    judged = enumerate(zip(cut.scores.column("id").to_pylist(), cut.keep_N.tolist(), strict=True))
    keeps, gone = [np.empty(0, bool)], list[int]()
    source = open_parquet(file)
    with pq.ParquetWriter(target, source.schema_arrow, compression="zstd") as writer:
        for records in batches(source, ROWS):
            rows = [
                next((row, keep) for row, (id, keep) in judged if id == wanted)
                for wanted in records.column("id").to_pylist()
            ]
            keep_D = np.array([keep for _, keep in rows], bool)
            gone += [row for row, keep in rows if not keep]
            writer.write_batch(records.filter(pa.array(keep_D)))
            _count(records, keep_D, funnel)
            keeps.append(keep_D)
    return np.concatenate(keeps), gone


def _count(records: pa.RecordBatch, keep_D: np.ndarray, funnel: Funnel) -> None:
    sources, bytes_D = records.column("source").to_pylist(), np.asarray(pc.binary_length(records.column("text")))
    funnel.count(RECUT, sources, bytes_D, keep_D)
    split_D = np.array(records.column("split").to_pylist(), object)
    for split in SPLITS:
        funnel.count(split, sources, bytes_D, keep_D & (split_D == split))


def _write_rejects(file: Path, cut: Cut, gone: list[int], target: Path, removed: dict[str, int]) -> None:
    """What went before, and what goes now; adds to `removed`."""
    with RejectLog(target) as log:
        for records in batches(open_parquet(file), ROWS):
            log.copy(records)
        for name in dict.fromkeys(name for name, _ in cut.reasons):
            log.add(f"filter.{name}", _rejects(cut, gone, name))
    for key, count in log.counts.items():
        removed[key] = removed.get(key, 0) + count


def _rejects(cut: Cut, gone: list[int], name: str) -> Iterator[Reject]:
    """What a filter takes out."""
    for row in gone:
        filter, reason = cut.reasons[cut.why_N[row] - 1]
        if filter == name:
            of: dict[str, Any] = cut.scores.slice(row, 1).select(["id", "source"]).to_pylist()[0]
            yield Reject("", reason, "", of["source"], of["id"], float(cut.score_N[row]))
