"""The `curate` stage: sources in, one corpus of unique, filtered documents out (paper 3.1.1).

    read -> older versions of pages -> exact duplicates -> near duplicates -> frequent lines -> benchmarks -> filters
    -> held-out split

Documents are staged on disk shard by shard, where a killed process left off; only ids, band keys and sizes stay in
memory. Everything that is taken out is logged with its stage, reason and score. Letters: N documents read, B bands.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from llama3 import __version__, _core
from llama3.artifacts import StageOutput, Texts, stage
from llama3.artifacts.files import canonical_json
from llama3.config.curation import DecontaminationSection, LineDedupSection, MinHashSection, RemovalAlarmSection
from llama3.config.schema import Config, DataSection
from llama3.config.slot_types import FilterSlot, Slot, SourceSlot
from llama3.data.bands import BandParameters, write_run
from llama3.data.before_after import write_samples
from llama3.data.columns import printable
from llama3.data.corpus import BANDS, DOCUMENTS, EDITED, FUNNEL, OF_DOCUMENT, REJECTS, SCORES, SPLITS, Split
from llama3.data.decontaminate import Cleaning, benchmark_hashes
from llama3.data.dedup import Deduplicator, Duplicates
from llama3.data.documents import SCHEMA, DocumentBatch, Filter, Reject, ShardRef, Source
from llama3.data.earlier import Earlier
from llama3.data.judging import (
    Editor,
    build_filters,
    judged,
    measured,
    private_of,
    recorded,
    stamps,
    survey,
    unwanted,
    without_model,
)
from llama3.data.ledger import Funnel, Losses, RejectLog, removal_alarms, told_alarm
from llama3.data.made import MadeTexts
from llama3.data.staging import STAGED, Staged, stage_shard, staged_file
from llama3.data.thinning import Thinning
from llama3.errors import ConfigError, DataError, LlamaError, Problem
from llama3.plugins.registry import discover
from llama3.plugins.targets import describe

NOTHING_READ = DataError.declare(
    "L3-DAT-101",
    "none of {count} shards gave a document",
    why="taken out: {lost}",
    fix="see the shards named in events.jsonl",
)
NOTHING_LEFT = DataError.declare(
    "L3-DAT-102",
    "no document is left for training",
    why="taken out: {lost}",
    fix="read more text, or loosen the filters",
)
ODD_DOCUMENTS = DataError.declare(
    "L3-DAT-103", "{source} gave documents without {missing}", fix="make batches with DocumentBatch.of"
)
SOURCE_FAILED = DataError.declare("L3-DAT-104", "{source} failed", why="{error}")
NAN = float("nan")
IN_EARLIER = "in_earlier_corpus"
REMOVES_TOO_MUCH = DataError.declare(
    "L3-DAT-123",
    "{stage} takes out too much",
    why="{told}",
    fix="look at the rejects of that stage with data.alarm.action: warn; then mend the stage, or raise data.alarm.most",
)

WRITTEN = pa.schema([*STAGED, ("lines_dropped", pa.int64()), ("split", pa.string())])


class CurateOptions(BaseModel):
    """The options of the stage together with what they point at, so that other contents make a new corpus."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: list[SourceSlot]
    filters: list[FilterSlot]
    urls: bool
    exact: bool
    minhash: MinHashSection
    against: list[str]
    by_language: bool
    lines: LineDedupSection
    decontaminate: DecontaminationSection
    alarm: RemovalAlarmSection
    held_out: float
    tasks: tuple[str, ...] = Field((), description="held-out tasks that the corpus must not hold")
    found: str = Field(description="hash of the names and contents of everything that is read")

    @classmethod
    def of(cls, config: Config, tasks: Sequence[str] = ()) -> Self:
        """From the whole config, what its sources hold, and the `tasks` that are taken out beside its benchmarks (see
        llama3.tasks.held_out). Raises ConfigError as `curate` does, before any work."""
        section = config.data
        earlier = _earlier(section, _near(section.minhash))
        shards = [shard for _, shard in all_shards(build_sources(section.sources))]
        facts = [(shard.source, shard.location, shard.part, shard.bytes, shard.stamp) for shard in shards]
        benchmarks = benchmark_hashes(section.decontaminate, tasks)
        found = (facts, benchmarks, earlier.hashes, *stamps(build_filters(section.filters)))
        return cls(
            sources=section.sources,
            filters=section.filters,
            urls=section.urls,
            exact=section.exact,
            minhash=section.minhash,
            against=section.against,
            by_language=section.by_language,
            lines=section.lines,
            decontaminate=section.decontaminate,
            alarm=section.alarm,
            held_out=section.held_out,
            tasks=tuple(tasks),
            found=_core.blake3_bytes(repr(found).encode("utf-8", "surrogateescape")),
        )


@stage(output="corpus")
def curate(synthetic: Texts | None = None, *, options: CurateOptions, out: StageOutput) -> None:
    """Reads `options.sources` and `synthetic` text, writes the corpus (layout: llama3.data.corpus).

    Raises ConfigError, before any work, naming every source that is missing or empty, and DataError where nothing
    could be read or nothing is left for training.
    """
    near = _near(options.minhash)
    earlier = _earlier(options, near)
    filters = build_filters(options.filters)
    cleaning = Cleaning(options.decontaminate, options.tasks)
    shards = all_shards([*build_sources(options.sources), *(() if synthetic is None else (MadeTexts(synthetic),))])
    funnel = Funnel()
    parts = None if out.logs is None else parts_folder(out.logs, options)
    reading = parts if parts is not None and parts.is_dir() else out.scratch / "read"
    try:
        with RejectLog(out.path / REJECTS) as rejects:
            staged = _read(shards, Staged(reading, near), funnel, rejects, out)
            kept_N = np.ones(len(staged), bool)
            if options.urls:
                kept_N = _drop_older(staged, funnel, rejects)
            if options.exact:
                kept_N = _drop_exact(staged, kept_N, earlier, funnel, rejects)
            if near is not None:
                kept_N = _drop_near(staged, kept_N, options.by_language, earlier, funnel, rejects, out)
            thinning = Thinning(staged, kept_N, options.lines, options.by_language)
            survey(filters, (batch for _, batch in staged.documents(kept_N)))
            written = _judge_and_write(thinning, cleaning, filters, options.held_out, funnel, rejects, out)
            if near is not None:
                write_run(out.path / BANDS, staged.keys(written, options.by_language), _parameters(options, near))
            out.metrics["rejects"] = rejects.counts
        write_samples(out.path, staged, private_of(filters))
    finally:
        shutil.rmtree(out.scratch / "read", ignore_errors=True)  # a full disk is not kept full
    out.metrics["lines"] = {"frequent": thinning.frequent, "dropped": thinning.dropped}
    out.metrics["decontamination"] = cleaning.report()
    out.metrics["without_model"] = without_model(filters)
    out.metrics["funnel"] = funnel.stages
    funnel.write(out.path / FUNNEL)
    _ring(removal_alarms(funnel.stages, rejects.counts, options.alarm.most), options.alarm, out)
    if not funnel.documents("train"):
        raise NOTHING_LEFT("curate", lost=_counted(rejects))
    shutil.rmtree(reading, ignore_errors=True)
    if parts is not None and reading == parts and not any(parts.parent.iterdir()):
        parts.parent.rmdir()


def _ring(alarms: list[dict[str, Any]], options: RemovalAlarmSection, out: StageOutput) -> None:
    """Tells what took out more than is usual. Raises DataError (L3-DAT-123) naming all where that stops the run."""
    out.metrics["alarms"] = alarms
    for alarm in alarms:
        out.event("removal_alarm", **alarm)
    if alarms and options.action == "stop":
        raise DataError.of(
            REMOVES_TOO_MUCH.problem(f"source {alarm['source']!r}", stage=alarm["stage"], told=told_alarm(alarm))
            for alarm in alarms
        )


# -- parts -----------------------------------------------------------------------------------------


def parts_folder(run: Path, options: CurateOptions) -> Path:
    """Where processes put what they read for a corpus with these options: beside the run, in which only one works."""
    facts = [__version__, options.model_dump(mode="json")]
    return run.with_name(f"{run.name}.parts") / _core.blake3_bytes(canonical_json(facts))


def read_part(options: CurateOptions, run: Path, rank: int, world: int) -> tuple[int, int]:
    """Reads every `world`-th shard from the `rank`-th on beside the run directory, where `curate` goes on from it and
    reads what is lacking: (shards that are there now, shards of this part). The parts may be of any number, be killed
    and be done twice; the corpus is the same to the byte. What cannot be read is left to `curate`, which tells."""
    near, folder = _near(options.minhash), parts_folder(run.absolute(), options)
    folder.mkdir(parents=True, exist_ok=True)
    mine = list(enumerate(all_shards(build_sources(options.sources))))[rank::world]
    there = 0
    for number, (source, shard) in mine:
        file = staged_file(folder, number, shard)
        try:
            if not file.exists():
                stage_shard(guarded(source, shard), shard, file, near)
        except DataError:
            continue
        there += 1
    return there, len(mine)


# -- reading ---------------------------------------------------------------------------------------


def build_sources(slots: Sequence[Slot]) -> list[Source]:
    """The sources that a config names."""
    return [discover().build("sources", slot.name, slot.options) for slot in slots]


def all_shards(sources: list[Source]) -> list[tuple[Source, ShardRef]]:
    """Every shard of every source, of each by place, in whatever order it lists them. Raises ConfigError with the
    problems of all."""
    shards: list[tuple[Source, ShardRef]] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            listed = sorted(source.shards(), key=lambda shard: (shard.location, shard.part))
            shards.extend((source, shard) for shard in listed)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError.of(problems)
    return shards


def _near(options: MinHashSection) -> Deduplicator | None:
    if not options.enabled:
        return None
    return Deduplicator(threshold=options.threshold, ngram=options.ngram, bands=options.bands, rows=options.rows)


def _parameters(options: CurateOptions | DataSection, near: Deduplicator) -> BandParameters:
    return BandParameters(near.ngram, near.bands, near.rows, options.by_language)


def _earlier(options: CurateOptions | DataSection, near: Deduplicator | None) -> Earlier:
    return Earlier(options.against, None if near is None else _parameters(options, near))


def _read(
    shards: list[tuple[Source, ShardRef]], staged: Staged, funnel: Funnel, rejects: RejectLog, out: StageOutput
) -> Staged:
    quarantined = 0
    losses = Losses()
    with out.progress("read", sum(shard.bytes for _, shard in shards), unit="B") as task:
        for source, shard in shards:
            try:
                found = [*shard.unread, *staged.add(guarded(source, shard), shard)]
            except DataError as error:
                quarantined += 1
                where = printable(f"{shard.location}#{shard.part}")
                out.event("shard_quarantined", source=shard.source, shard=where, error=str(error))
                found = [*shard.unread, Reject(where, "shard_quarantined", str(error), shard.source)]
            rejects.add("read", found)
            losses.add(found)
            task.advance(shard.bytes, documents=len(staged))
    out.metrics["quarantined_shards"] = quarantined
    out.metrics["shards"] = len(shards)
    out.metrics["losses"] = losses.rows
    if not len(staged):
        raise NOTHING_READ("curate", count=len(shards), lost=_counted(rejects))
    funnel.count("read", staged.sources, staged.bytes_N)
    return staged


def _counted(rejects: RejectLog) -> list[str]:
    return [f"{reason} {count}" for reason, count in rejects.counts.items()]


def guarded(source: Source, shard: ShardRef) -> Iterator[DocumentBatch]:
    """The shard's batches; whatever goes wrong inside the source becomes a DataError of this shard."""
    try:
        for batch in source.read(shard):
            missing = sorted(set(SCHEMA.names) - set(batch.records.schema.names))
            if missing:
                raise ODD_DOCUMENTS(shard.location, source=type(source).__name__, missing=missing)
            yield _in_our_types(batch)
    except LlamaError:
        raise
    except Exception as error:
        raise SOURCE_FAILED(shard.location, source=type(source).__name__, error=describe(error)) from error


def _in_our_types(batch: DocumentBatch) -> DocumentBatch:
    """The batch with the columns of SCHEMA as SCHEMA says, whatever layout the source chose for them."""
    records = batch.records.select(SCHEMA.names)
    return batch if records.schema.equals(SCHEMA) else replace(batch, records=records.cast(SCHEMA))


# -- duplicates ------------------------------------------------------------------------------------


def _drop_older(staged: Staged, funnel: Funnel, rejects: RejectLog) -> np.ndarray:
    """Keeps the newest document of every address (paper 3.1.1), of equally new ones the first."""
    kept_N = np.ones(len(staged), bool)
    page_N, date_N, _ = staged.pages_N3.T
    if not page_N.any():
        return kept_N  # nothing of it is from the web
    order = np.lexsort((np.arange(len(staged)), ~date_N, page_N))
    order = order[page_N[order] > 0]
    begins = np.diff(page_N[order], prepend=np.uint64(0)) > 0
    newest = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    kept_N[order[~begins]] = False
    pairs = sorted(zip(order[~begins].tolist(), newest[~begins].tolist(), strict=True))
    rejects.add("url", (_duplicate(staged, n, "same_address", staged.ids[kept], NAN) for n, kept in pairs))
    funnel.count("url", staged.sources, staged.bytes_N, kept_N)
    return kept_N


def _drop_exact(staged: Staged, kept_N: np.ndarray, earlier: Earlier, funnel: Funnel, rejects: RejectLog) -> np.ndarray:
    """Keeps the first document of every id that no earlier corpus has."""
    known = earlier.known(staged.ids)
    known_N = np.array([id in known for id in staged.ids], bool) & kept_N
    there = ((int(n), f"{staged.ids[n]} in {known[staged.ids[n]]}") for n in np.flatnonzero(known_N))
    rejects.add("exact", (_duplicate(staged, n, IN_EARLIER, of, 1.0) for n, of in there))
    kept_N = kept_N & ~known_N
    first: dict[str, int] = {}
    is_first_N = np.array([not kept or first.setdefault(id, n) == n for n, (id, kept) in
                           enumerate(zip(staged.ids, kept_N.tolist(), strict=True))], bool)  # fmt: skip
    removed = np.flatnonzero(~is_first_N)
    rejects.add("exact", (_duplicate(staged, int(n), "exact_duplicate", staged.ids[n], 1.0) for n in removed))
    kept_N = kept_N & is_first_N
    funnel.count("exact", staged.sources, staged.bytes_N, kept_N)
    return kept_N


def _drop_near(
    staged: Staged,
    kept_N: np.ndarray,
    by_language: bool,
    earlier: Earlier,
    funnel: Funnel,
    rejects: RejectLog,
    out: StageOutput,
) -> np.ndarray:
    """Keeps the first document of every cluster of near duplicates, and none of what earlier corpora have."""
    assert staged.near is not None
    rows = np.flatnonzero(kept_N)
    keys_DB = staged.keys(rows, by_language)
    met = earlier.meet(keys_DB)
    first = len(met.keys_FB)  # those of earlier corpora stand before the new ones

    def texts(chosen: np.ndarray) -> pa.Array:
        old, new = np.split(chosen, [np.searchsorted(chosen, first)])
        return pa.concat_arrays([earlier.texts(met, old), staged.texts(rows[new - first])])

    sizes = np.concatenate([earlier.bytes(met), staged.bytes_N[rows]])
    all_keys = np.concatenate([met.keys_FB, keys_DB]) if first else keys_DB
    found: Duplicates = staged.near.settle(all_keys, texts, sizes, first)
    removed, removed_by = np.flatnonzero(~found.keep_D), found.duplicate_of_D[~found.keep_D]
    old = np.unique(removed_by[removed_by < first])
    names = dict(zip(old.tolist(), earlier.names(met, old), strict=True))
    rejects.add(
        "near",
        (
            _duplicate(staged, n, IN_EARLIER, names[of], similarity)
            if of < first
            else _duplicate(staged, n, "near_duplicate", staged.ids[rows[of - first]], similarity)
            for n, of, similarity in zip(
                rows[removed - first].tolist(), removed_by.tolist(), found.similarity_D[removed].tolist(), strict=True
            )
        ),
    )
    kept_N = kept_N.copy()
    kept_N[rows[removed - first]] = False
    funnel.count("near", staged.sources, staged.bytes_N, kept_N)
    out.metrics["near_duplicates"] = {
        "bands": staged.near.bands,
        "rows": staged.near.rows,
        "candidates": found.candidates,
        "comparisons": found.comparisons,
        "removed": len(removed),
        "unsupported_removals": found.unsupported_removals,
        "largest_cluster": found.largest_cluster,
        "full_buckets": found.full_buckets,
    }
    return kept_N


def _duplicate(staged: Staged, n: int, reason: str, kept: str, similarity: float) -> Reject:
    return Reject("", reason, f"of {kept}", staged.sources[n], staged.ids[n], similarity)


# -- filters and the split -------------------------------------------------------------------------


def _judge_and_write(
    thinning: Thinning,
    cleaning: Cleaning,
    filters: Mapping[str, Filter],
    held_out: float,
    funnel: Funnel,
    rejects: RejectLog,
    out: StageOutput,
) -> np.ndarray:
    """Every filter scores every document; then the first that says no is the reason. Writes documents and scores; the
    numbers of the documents that were written."""
    written: list[np.ndarray] = []
    columns_schema = _scores_schema(filters)
    total = int(thinning.kept_N.sum())
    with (
        pq.ParquetWriter(out.path / DOCUMENTS, WRITTEN, compression="zstd") as documents,
        pq.ParquetWriter(out.path / SCORES, columns_schema, compression="zstd") as scores,
        Editor(filters, out.path / EDITED) as editor,
        out.progress("judge", total) as task,
    ):
        for batch in thinning.documents():
            task.advance(len(batch))
            batch = _drop_emptied(batch, rejects)
            funnel.count("lines", batch.column("source"), batch.bytes_D)
            if cleaning.active:
                batch = cleaning.clean(batch, rejects)
                funnel.count("decontaminate", batch.column("source"), batch.bytes_D)
            batch = measured(filters, batch)
            keep_D = np.ones(len(batch), bool)
            columns: dict[str, Any] = {name: batch.features[name] for name in recorded(filters)}
            for name, filter in filters.items():
                judgement = judged(name, filter, batch)
                columns[f"{name}_score"] = judgement.score_D
                rejects.add(f"filter.{name}", unwanted(batch, keep_D & ~judgement.keep_D, judgement))
                keep_D = keep_D & judgement.keep_D
                funnel.count(f"filter.{name}", batch.column("source"), batch.bytes_D, keep_D)
            columns |= {name: batch.records.column(name) for name in OF_DOCUMENT} | {"kept": keep_D}
            scores.write_table(pa.table({name: columns[name] for name in columns_schema.names}, schema=columns_schema))
            kept = batch.take(keep_D)
            if editor.active:
                kept = _drop_emptied(editor.edit(kept), rejects, "edit")
                funnel.count("edit", kept.column("source"), kept.bytes_D)
            splits = [split_of(origin, held_out) for origin in kept.column("origin")]
            for split in SPLITS:
                here_D = np.array([s == split for s in splits], bool)
                funnel.count(split, kept.column("source"), kept.bytes_D, here_D)
            written.append(np.asarray(kept.records.column("number")))
            documents.write_batch(
                kept.with_column("split", pa.array(splits, pa.string())).records.select(WRITTEN.names)
            )
    if editor.active:
        out.metrics["edits"] = editor.counts
    return np.concatenate([np.empty(0, np.int64), *written])


def _scores_schema(filters: Mapping[str, Filter]) -> pa.Schema:
    numbers = [(name, pa.float64()) for name in [*(f"{name}_score" for name in filters), *recorded(filters)]]
    return pa.schema([*((name, pa.string()) for name in OF_DOCUMENT), ("kept", pa.bool_()), *numbers])


def _drop_emptied(batch: DocumentBatch, rejects: RejectLog, stage: str = "lines") -> DocumentBatch:
    """Leaves out documents of which a stage left only whitespace."""
    empty_D = np.array([not text.strip() for text in batch.texts], bool)
    rows = zip(batch.column("id"), batch.column("source"), empty_D, strict=True)
    rejects.add(stage, (Reject("", "no_text_left", "", source, id) for id, source, empty in rows if empty))
    return batch.take(~empty_D) if empty_D.any() else batch


def split_of(origin: str, held_out: float) -> Split:
    """The side of the split on which all documents of an origin fall: a pure function of its name."""
    return "held_out" if place_of(origin) < held_out else "train"


def place_of(origin: str) -> float:
    """From 0 to 1, evenly: those of the lowest places are held out."""
    return int(_core.blake3_bytes(origin.encode())[:16], 16) / 2**64
