"""The third step of a curation, `write shard`: documents that stay, thinned, cleaned and judged, a part at a time.

What is frequent in the whole corpus is counted before, part by part too, and added up: lines, and what filters want to
know of all documents. A part depends on what was read and decided alone, so any process may write it, or two at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.config.curation import LineDedupSection
from llama3.data.arrays import read_arrays, write_arrays
from llama3.data.bands import BandParameters, write_run
from llama3.data.commits import Begun, Commit
from llama3.data.corpus import BANDS, DOCUMENTS, EDITED, OF_DOCUMENT, REJECTS, SCORES, SPLITS, split_of
from llama3.data.counting import frequent_keys, keys_in, sorted_run
from llama3.data.deciding import KEPT, STEPS, KeepDecision, Part, Staged
from llama3.data.decontaminate import Cleaning
from llama3.data.documents import DocumentBatch, Filter, Reject
from llama3.data.judging import Editor, asked_of, editing, recorded, survey, surveyed, surveying, unwanted
from llama3.data.ledger import Funnel, RejectLog
from llama3.data.opinions import Opinion
from llama3.data.staging import STAGED
from llama3.data.thinning import LineBuckets

WRITTEN = pa.schema([*STAGED, ("lines_dropped", pa.int64()), ("split", pa.string())])
LINES = ".lines"
COUNTED = "counted"
TABLES = (DOCUMENTS, SCORES, EDITED, REJECTS)


@dataclass(frozen=True)
class Material:
    """What all parts are counted and written from."""

    staged: Staged
    decision: KeepDecision
    lines: LineDedupSection
    by_language: bool

    def documents(self, part: Part) -> Iterator[tuple[int, np.ndarray, DocumentBatch]]:
        """The documents of a part that stay, in order: (portion, their numbers in it, a batch)."""
        for number in part.portions:
            keep_D = self.decision.of(number).step_D == KEPT
            for rows, batch in self.staged.portions[number].batches(keep_D):
                yield number, rows, batch

    def buckets(self, part: Part) -> LineBuckets:
        return LineBuckets(self.lines, self.by_language, part.kept_before)


# -- counting --------------------------------------------------------------------------------------


def needs_counting(material: Material, filters: Mapping[str, Filter]) -> bool:
    """Whether anything of all documents must be known before the first is written."""
    return material.lines.enabled or bool(surveying(filters))


def count_part(material: Material, part: Part, filters: Mapping[str, Filter], folder: Path) -> None:
    """Commits the keys of a part's lines, and what `filters`, which have seen no document yet, find in it."""
    looking = surveying(filters)
    buckets = material.buckets(part)
    keys: list[np.ndarray] = []
    for _, _, batch in material.documents(part):
        if material.lines.enabled:
            keys.append(buckets.keys(batch))
        survey(looking, batch)
    with Begun(folder, f"{part.number:06}") as begun:
        sorted_run(keys, material.lines.max_count).tofile(begun.file(LINES))
        for name, filter in looking.items():
            write_arrays(begun.file(_survey_of(name)), surveyed(name, filter))
        begun.commit({})


def add_up(material: Material, counts: Iterable[Commit], filters: Mapping[str, Filter], folder: Path) -> Commit:
    """Commits what is frequent in the whole corpus, from the counts of all parts."""
    counts = list(counts)
    looking = surveying(filters)
    for count in counts:
        join_surveys(filters, count)
    with Begun(folder, COUNTED) as begun:
        runs = [count.files[LINES] for count in counts]
        frequent = frequent_keys(runs, material.lines.max_count, begun.file(LINES))
        for name, filter in looking.items():
            write_arrays(begun.file(_survey_of(name)), surveyed(name, filter))
        return begun.commit({"frequent": frequent})


def join_surveys(filters: Mapping[str, Filter], counted: Commit) -> None:
    """Gives filters what was found in documents."""
    looking = surveying(filters)
    for name, path in survey_files(counted, looking).items():
        asked_of(name, looking[name], "join", read_arrays(path))


def survey_files(counted: Commit, names: Iterable[str]) -> dict[str, Path]:
    """By filter, where what was found lies."""
    return {name: counted.files[_survey_of(name)] for name in names}


def _survey_of(name: str) -> str:
    return f".{name}.npz"


# -- writing ---------------------------------------------------------------------------------------


class PartWriter:
    """Writes parts. `ask` tells what filters think of a batch, whose names and columns `filters` has."""

    def __init__(
        self,
        material: Material,
        cleaning: Cleaning,
        filters: Mapping[str, Filter],
        ask: Any,
        counted: Commit | None,
        held_out: float,
        parameters: BandParameters | None,
        watched: bool = False,
    ) -> None:
        self.material, self.cleaning, self.filters, self.ask, self.watched = material, cleaning, filters, ask, watched
        self.frequent = np.empty(0, np.uint64) if counted is None else keys_in(counted.files[LINES])
        self.held_out, self.parameters = held_out, parameters
        numbers = [*(f"{name}_score" for name in filters), *recorded(filters)]
        names = [*((name, pa.string()) for name in OF_DOCUMENT), ("kept", pa.bool_())]
        self.scores_schema = pa.schema([*names, *((name, pa.float64()) for name in numbers)])

    def write(self, part: Part, folder: Path) -> None:
        """Commits the tables of a part, its band keys, and its share of the books."""
        funnel, cleaning = Funnel(), self.cleaning.with_new_books()
        for split in SPLITS:  # where nothing is left too
            funnel.count(split, [], np.empty(0))
        dropped, of_table = 0, -1
        table = np.empty((0, self.parameters.bands if self.parameters else 0), np.uint64)
        keys = [table]
        with Begun(folder, f"{part.number:06}") as begun:
            with (
                RejectLog(begun.file(f".{REJECTS}")) as rejects,
                pq.ParquetWriter(begun.file(f".{DOCUMENTS}"), WRITTEN, compression="zstd") as documents,
                pq.ParquetWriter(begun.file(f".{SCORES}"), self.scores_schema, compression="zstd") as scores,
                Editor(begun.file(f".{EDITED}") if editing(self.filters) else None) as editor,
            ):
                self._before(part, funnel, rejects)
                buckets = self.material.buckets(part)
                for number, rows, batch in self.material.documents(part):
                    batch = buckets.thinned(batch.with_column("row", pa.array(rows)), self.frequent)
                    dropped += int(np.asarray(batch.records.column("lines_dropped")).sum())
                    kept = self._judged(batch, cleaning, funnel, rejects, scores, editor)
                    splits = [split_of(origin, self.held_out) for origin in kept.column("origin")]
                    for split in SPLITS:
                        here_D = np.array([s == split for s in splits], bool)
                        funnel.count(split, kept.column("source"), kept.bytes_D, here_D)
                    written = kept.with_column("split", pa.array(splits, pa.string())).records
                    documents.write_batch(written.select(WRITTEN.names))
                    if self.parameters is not None:
                        if number != of_table:
                            of_table, table = number, self.material.staged.portions[number].run().table()
                        keys.append(table[np.asarray(written.column("row"))])
            if self.parameters is not None:
                write_run(begun.file(f".{BANDS}"), np.concatenate(keys), self.parameters)
            begun.commit(
                {
                    "funnel": funnel.stages,
                    "rejects": rejects.counts,
                    "edits": editor.counts,
                    "dropped": dropped,
                    "cleaning": cleaning.books(),
                }
            )

    def _before(self, part: Part, funnel: Funnel, rejects: RejectLog) -> None:
        """Writes down what became of the part's documents before they were read again."""
        portions = [self.material.staged.portions[number] for number in part.portions]
        for portion in portions:
            rejects.add("read", portion.rejects())
        gone: dict[str, list[Reject]] = {step: [] for step in STEPS}
        for number, portion in zip(part.portions, portions, strict=True):
            decided = self.material.decision.of(number)
            bytes_D, ids_D16, source_D = portion.facts("bytes_D", "ids_D16", "source_D")
            ids = [id.tobytes().hex() for id in ids_D16]
            sources = [portion.sources[place] for place in source_D.tolist()]
            funnel.count("read", sources, bytes_D)
            for step in self.material.decision.steps:
                left_D = (decided.step_D == KEPT) | (decided.step_D > step)
                funnel.count(STEPS[step], sources, bytes_D, left_D)
            for step_name, reject in decided.rejects(ids, sources):
                gone[step_name].append(reject)
        for step_name, some in gone.items():
            rejects.add(step_name, some)

    def _judged(
        self,
        batch: DocumentBatch,
        cleaning: Cleaning,
        funnel: Funnel,
        rejects: RejectLog,
        scores: pq.ParquetWriter,
        editor: Editor,
    ) -> DocumentBatch:
        """Every filter scores every document; then the first that says no is the reason. Those that stay, edited."""
        batch = without_emptied(batch, rejects, "lines")
        funnel.count("lines", batch.column("source"), batch.bytes_D)
        if cleaning.active:
            batch = cleaning.clean(batch, rejects)
            funnel.count("decontaminate", batch.column("source"), batch.bytes_D)
        found: Opinion = self.ask(batch)
        if found.outside:
            reasons = zip(found.outside, batch.column("source"), batch.column("id"), strict=True)
            rejects.add("bounds", (Reject("", why, "", source, id) for why, source, id in reasons if why))
            batch = batch.take(np.array([not why for why in found.outside], bool))
        if self.watched:
            funnel.count("bounds", batch.column("source"), batch.bytes_D)
        keep_D = np.ones(len(batch), bool)
        columns: dict[str, Any] = dict(found.columns)
        for name, judgement in found.judgements.items():
            columns[f"{name}_score"] = judgement.score_D
            rejects.add(f"filter.{name}", unwanted(batch, keep_D & ~judgement.keep_D, judgement))
            keep_D = keep_D & judgement.keep_D
            funnel.count(f"filter.{name}", batch.column("source"), batch.bytes_D, keep_D)
        columns |= {name: batch.records.column(name) for name in OF_DOCUMENT} | {"kept": keep_D}
        schema = self.scores_schema
        scores.write_table(pa.table({name: columns[name] for name in schema.names}, schema=schema))
        kept = batch.take(keep_D)
        if editor.active:
            kept = without_emptied(editor.edit(kept, found.edits), rejects, "edit")
            funnel.count("edit", kept.column("source"), kept.bytes_D)
        return kept


def without_emptied(batch: DocumentBatch, rejects: RejectLog, stage: str) -> DocumentBatch:
    """Leaves out documents of which a stage left only whitespace."""
    empty_D = np.array([not text.strip() for text in batch.texts], bool)
    rows = zip(batch.column("id"), batch.column("source"), empty_D, strict=True)
    rejects.add(stage, (Reject("", "no_text_left", "", source, id) for id, source, empty in rows if empty))
    return batch.take(~empty_D) if empty_D.any() else batch
