"""A curation in pieces: what it reads, and its three steps, `read shard -> keys`, `decide -> keep`, `write shard`.

The pieces lie in one folder, each committed by itself (llama3.data.commits), so that it does not matter who makes them:
the threads of one process, the tasks of a job array or those of Ray. A piece is made of others that are finished and of
nothing else, so the corpus is the same to the byte. Its layout:

read/<number>-<hash>/   a folder for every shard, which its content names (llama3.data.staging)
decided-<hash>/         of all that was read: what stays of every portion, and the parts (llama3.data.deciding)
counted-<hash>/         what is frequent in each part, and in all (llama3.data.writing)
written-<hash>/         the tables of each part
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.config.crosscheck import labels_of
from llama3.config.curation import (
    BoundsSection,
    DecontaminationSection,
    LineDedupSection,
    MinHashSection,
    RemovalAlarmSection,
)
from llama3.config.schema import Config, DataSection
from llama3.config.slot_types import FilterSlot, Slot, SourceSlot
from llama3.data.bands import BandParameters
from llama3.data.commits import Commit, committed
from llama3.data.deciding import Deciding, KeepDecision, Part, Staged, decision_at
from llama3.data.decontaminate import Cleaning, benchmark_hashes
from llama3.data.dedup import Deduplicator
from llama3.data.documents import SCHEMA, DocumentBatch, Filter, Labelling, ShardRef, Source, id_bytes
from llama3.data.earlier import Earlier
from llama3.data.judging import build_filters, editing, stamps, surveying
from llama3.data.opinions import opinion
from llama3.data.staging import Reading, StagedShard, shard_folder, stage_shard, staged_shard
from llama3.data.watching import WatchedFilters, foreign, try_out
from llama3.data.writing import (
    COUNTED,
    Material,
    PartWriter,
    add_up,
    count_part,
    join_surveys,
    needs_counting,
    survey_files,
)
from llama3.errors import ConfigError, DataError, Problem
from llama3.plugins.asking import ODD_RESULT, asking, called, what
from llama3.plugins.registry import discover
from llama3.tasks.held_out import HeldOutTasks

ODD_DOCUMENTS = DataError.declare(
    "L3-DAT-103", "{source} gave documents without {missing}", fix="make batches with DocumentBatch.of"
)
SOURCE_FAILED = DataError.declare("L3-DAT-104", "source {source}: `read` failed", why="{error}")
ODD_IDS = DataError.declare(
    "L3-DAT-272",
    "{source} gave documents with other ids than ours",
    why="{error}",
    fix="make batches with DocumentBatch.of",
)
OTHER_LABELS = DataError.declare(
    "L3-DAT-298",
    "{source} gave documents with labels that it does not promise: {labels}",
    why="it promises {promised}, by which mixes are checked before any work",
    fix="name all of them under labels in its SourceSpec",
)

END = object()
"""Comes after the last batch of a source, which may give anything before."""
MOST_THREADS = 4
"""Of one process: each holds a portion and its own copies of the filters. What they call uses all cores."""
Step = Literal["read", "count", "write"]
STEPS: tuple[Step, ...] = ("read", "count", "write")


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
    bounds: BoundsSection
    alarm: RemovalAlarmSection
    held_out: float
    tasks: HeldOutTasks | None = Field(None, description="those that the corpus must not hold")
    found: str = Field(description="hash of the names and contents of everything that is read")

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config and what its sources hold. Raises ConfigError as `curate` does, before any work."""
        section = config.data
        earlier = Earlier(section.against, parameters_of(section, deduplicator(section.minhash)))
        try_out(section.filters)
        shards = [shard for _, shard in all_shards(build_sources(section.sources))]
        facts = [(shard.source, shard.location, shard.part, shard.bytes, shard.stamp) for shard in shards]
        tasks = HeldOutTasks.of(config) if section.decontaminate.tasks else None
        benchmarks = benchmark_hashes(section.decontaminate, _texts_of(tasks))
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
            bounds=section.bounds,
            alarm=section.alarm,
            held_out=section.held_out,
            tasks=tasks,
            found=_core.blake3_bytes(repr(found).encode("utf-8", "surrogateescape")),
        )


def _texts_of(tasks: HeldOutTasks | None) -> list[str]:
    return [] if tasks is None else [task.prompt for task in tasks.tasks()]


# -- what is read ----------------------------------------------------------------------------------


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
            shards.extend((source, shard) for shard in _listed(source))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError.of(problems)
    return shards


def _listed(source: Source) -> list[ShardRef]:
    """The shards of one source by place. Raises PluginError where it fails, or lists something else."""
    where = f"source {called(source)}"
    with asking(where, "shards"):
        shards = list(source.shards())
        if odd := [what(shard) for shard in shards if not isinstance(shard, ShardRef)]:
            raise ODD_RESULT(where, method="shards", fault=f"of one shard {odd[0]}, not a ShardRef")
        return sorted(shards, key=lambda shard: (shard.location, shard.part))


def deduplicator(options: MinHashSection) -> Deduplicator | None:
    """What finds near duplicates; None where they are not looked for."""
    if not options.enabled:
        return None
    return Deduplicator(threshold=options.threshold, ngram=options.ngram, bands=options.bands, rows=options.rows)


def parameters_of(options: CurateOptions | DataSection, near: Deduplicator | None) -> BandParameters | None:
    """What band keys are made with."""
    return None if near is None else BandParameters(near.ngram, near.bands, near.rows, options.by_language)


def guarded(source: Source, shard: ShardRef, promised: Collection[str] = ()) -> Iterator[DocumentBatch]:
    """The shard's batches; whatever goes wrong inside the source, labels that it has not `promised` among it, becomes
    a DataError of this shard."""

    def failed(error: str) -> DataError:
        return SOURCE_FAILED(shard.location, source=called(source), error=error)

    where = f"source {called(source)}"
    with asking(where, "read", failed):
        batches = iter(source.read(shard))
    while True:
        with asking(where, "read", failed):
            batch = next(batches, END)
            if batch is END:
                return
            batch = _checked(shard, source, batch, promised)
        yield batch


def _checked(shard: ShardRef, source: Source, batch: object, promised: Collection[str]) -> DocumentBatch:
    """What a source gave, as documents of ours. Raises DataError where it is something else."""
    name = called(source)
    if not isinstance(batch, DocumentBatch):
        raise SOURCE_FAILED(shard.location, source=name, error=f"it gave a {type(batch).__name__}, not a DocumentBatch")
    if missing := sorted(set(SCHEMA.names) - set(batch.records.schema.names)):
        raise ODD_DOCUMENTS(shard.location, source=name, missing=missing)
    batch = _in_our_types(shard, source, batch)
    labels = set(batch.records.column("source").unique().to_pylist())
    if promised and not labels <= set(promised):
        raise OTHER_LABELS(
            shard.location, source=name, labels=sorted(labels - set(promised)), promised=sorted(promised)
        )
    return batch


def _in_our_types(shard: ShardRef, source: Source, batch: DocumentBatch) -> DocumentBatch:
    """The batch with the columns of SCHEMA as SCHEMA says, whatever layout the source chose for them."""
    records = batch.records.select(SCHEMA.names)
    try:
        id_bytes(records.column("id").to_pylist())
    except (ValueError, TypeError) as error:
        raise ODD_IDS(shard.location, source=called(source), error=error) from error
    return batch if records.schema.equals(SCHEMA) else replace(batch, records=records.cast(SCHEMA))


# -- the pieces ------------------------------------------------------------------------------------


class Curation:
    """The pieces of one curation in a folder, and how each is made. Opening lists what is read, and reads no text.

    `more`: sources beside those of the options. Raises ConfigError as `CurateOptions.of` does."""

    def __init__(self, options: CurateOptions, folder: Path, more: Sequence[Source] = ()) -> None:
        self.options, self.folder = options, folder
        self.near = deduplicator(options.minhash)
        self.parameters = parameters_of(options, self.near)
        self.earlier = Earlier(options.against, self.parameters)
        sources = build_sources(options.sources)
        self.shards = all_shards([*sources, *more])
        labels = [labels_of(slot, discover()) for slot in options.sources]
        self._promised = {id(source): of for source, of in zip(sources, labels, strict=True)}
        self.threads = max(1, min(MOST_THREADS, _core.num_threads()))
        self._checked: set[tuple[Step, int]] = set()
        """Pieces whose content was checked, or that were made here: it is not checked again."""
        self._own = threading.local()
        self.ending = threading.Event()
        """Set where it is broken off: filters under watch are asked no further."""
        folder.mkdir(parents=True, exist_ok=True)

    # read shard -> keys

    def shard(self, number: int) -> StagedShard | None:
        """What was read of a shard; its content is checked once."""
        _, shard = self.shards[number]
        check = ("read", number) not in self._checked
        found = staged_shard(shard_folder(self.folder / "read", number, shard), check=check)
        if found is not None:
            self._checked.add(("read", number))
        return found

    def read(self, number: int, pool: Executor | None = None) -> StagedShard:
        """Reads a shard, where that is not done. One that could not be read is tried again: it may be the disk."""
        found = self.shard(number)
        if found is not None and not found.quarantined:
            return found
        source, shard = self.shards[number]
        documents = guarded(source, shard, self._promised.get(id(source), ()))
        folder = shard_folder(self.folder / "read", number, shard)
        if pool is None:
            with ThreadPoolExecutor(self.threads) as own:
                stage_shard(documents, shard, folder, self._reading, own, self.threads)
        else:
            stage_shard(documents, shard, folder, self._reading, pool, self.threads)
        self._checked.add(("read", number))
        made = self.shard(number)
        assert made is not None
        return made

    @cached_property
    def _reading(self) -> Reading:
        labelling = {name: filter for name, filter in self._filters().items() if isinstance(filter, Labelling)}
        return Reading(self.near, self.options.by_language, labelling)

    def staged(self) -> Staged | None:
        """All documents that were read; None while a shard is missing."""
        found: list[StagedShard] = []
        for number in range(len(self.shards)):
            shard = self.shard(number)
            if shard is None:
                return None
            found.append(shard)
        return Staged([portion for shard in found for portion in shard.portions])

    # decide -> keep

    def decision(self, staged: Staged) -> KeepDecision:
        """What stays, decided now or before. One process decides; others wait for it."""
        folder = self._of("decided", staged)
        with _alone(folder):
            if (known := decision_at(folder)) is not None:
                return known
            deciding = Deciding(staged, self.near, self.earlier)
            if self.options.urls:
                deciding.older_versions()
            if self.options.exact:
                deciding.exact_duplicates()
            if self.near is not None:
                deciding.near_duplicates()
            deciding.write(folder)
        made = decision_at(folder)
        assert made is not None
        return made

    def material(self, staged: Staged, decision: KeepDecision) -> Material:
        """What the next steps work on."""
        return Material(staged, decision, self.options.lines, self.options.by_language)

    # write shard

    def counts(self, material: Material) -> bool:
        """Whether anything must be counted before the first part is written."""
        return needs_counting(material, self._filters())

    @property
    def edits(self) -> bool:
        """Whether a filter may replace parts of documents."""
        return bool(editing(self._filters()))

    def counted_part(self, material: Material, part: Part) -> Commit | None:
        """What was counted in a part, where that is done."""
        check = ("count", part.number) not in self._checked
        return committed(self._of("counted", material.staged), f"{part.number:06}", check=check)

    def count(self, material: Material, part: Part) -> None:
        """Counts in a part, where that is not done."""
        if self.counted_part(material, part) is None:
            count_part(material, part, self._looking(), self._of("counted", material.staged))
        self._checked.add(("count", part.number))

    def counted(self, material: Material) -> Commit | None:
        """What is frequent in all parts, added up now or before; None where nothing need be counted."""
        if not self.counts(material):
            return None
        folder = self._of("counted", material.staged)
        with _alone(folder):
            if (known := committed(folder, COUNTED)) is not None:
                return known
            parts = [self.counted_part(material, part) for part in material.decision.parts]
            return add_up(material, [part for part in parts if part], self._looking(), folder)

    def written_part(self, material: Material, part: Part) -> Commit | None:
        """A part, where it is written."""
        check = ("write", part.number) not in self._checked
        return committed(self._of("written", material.staged), f"{part.number:06}", check=check)

    def write(self, material: Material, part: Part, counted: Commit | None) -> None:
        """Writes a part, where that is not done."""
        if self.written_part(material, part) is None:
            self._writer(material, counted).write(part, self._of("written", material.staged))
        self._checked.add(("write", part.number))

    # helpers

    def _of(self, step: str, staged: Staged) -> Path:
        return self.folder / f"{step}-{staged.hash[:16]}"

    def _filters(self) -> dict[str, Filter]:
        """Filters of this thread, for they need not be safe to share."""
        if not hasattr(self._own, "filters"):
            self._own.filters = build_filters(self.options.filters)
        filters: dict[str, Filter] = self._own.filters
        return filters

    def _looking(self) -> dict[str, Filter]:
        """New copies of the filters that look at all documents first, which have seen none."""
        names = surveying(self._filters())
        return build_filters([slot for slot in self.options.filters if slot.name in names])

    def _writer(self, material: Material, counted: Commit | None) -> PartWriter:
        """What writes parts on this thread."""
        if not hasattr(self._own, "writer"):
            filters = build_filters(self.options.filters)
            if counted is not None:
                join_surveys(filters, counted)
            watched = self._watched(counted)
            self._own.writer = PartWriter(
                material,
                self.cleaning,
                filters,
                watched.ask if watched is not None else lambda batch: opinion(filters, batch),
                counted,
                self.options.held_out,
                self.parameters,
                watched is not None,
            )
        writer: PartWriter = self._own.writer
        return writer

    def _watched(self, counted: Commit | None) -> WatchedFilters | None:
        """The filters in a process of their own, where one is not built in."""
        if not foreign(self.options.filters):
            return None
        surveys = {} if counted is None else survey_files(counted, surveying(self._filters()))
        return WatchedFilters(self.options.filters, surveys, self.options.bounds, self.ending)

    @cached_property
    def cleaning(self) -> Cleaning:
        """Finds benchmarks. Books are kept in copies of it."""
        return Cleaning(self.options.decontaminate, _texts_of(self.options.tasks))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, on every machine that shares the folder; where there are no locks several do the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
