"""The `curate` stage: sources in, one corpus of unique, filtered documents out (paper 3.1.1).

    read -> older versions of pages -> exact duplicates -> near duplicates -> frequent lines -> benchmarks -> filters
    -> held-out split

Everything that is taken out is logged with its stage, reason and score. The work is done in pieces
(llama3.data.curating), which any number of processes may have made before; what is there is used.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3 import __version__, _core
from llama3.artifacts import StageOutput, Texts, stage
from llama3.artifacts.files import canonical_json, write_json_atomic
from llama3.config.curation import RemovalAlarmSection
from llama3.data.before_after import write_samples
from llama3.data.commits import Commit
from llama3.data.corpus import BANDS, DOCUMENTS, EDITED, FUNNEL, REJECTS, SCORES, SPLITS, STAMPS
from llama3.data.curating import CurateOptions, Curation, Step
from llama3.data.deciding import KeepDecision, Part, Staged
from llama3.data.judging import build_filters, editing, private_of, stamps, without_model
from llama3.data.ledger import Funnel, Losses, count_reason, removal_alarms, told_alarm
from llama3.data.made import MadeTexts
from llama3.data.staging import place_of
from llama3.data.tables import part_name
from llama3.data.writing import Material
from llama3.errors import DataError
from llama3.full_disk import is_disk_full

NOTHING_READ = DataError.declare(
    "L3-DAT-101",
    "none of {count} shards gave a document",
    why="taken out: {lost}",
    fix="{fix}",
)
NOTHING_LEFT = DataError.declare(
    "L3-DAT-102",
    "no document is left for training",
    why="taken out: {lost}",
    fix="read more text, or loosen the filters",
)
REMOVES_TOO_MUCH = DataError.declare(
    "L3-DAT-123",
    "{stage} takes out too much",
    why="{told}",
    fix="look at the rejects of that stage with data.alarm.action: warn; then mend the stage, or raise data.alarm.most",
)


MENDS = {
    "no_text": "`text` of a source of rows names the field that holds the text",
    "other_ending": "choose the source that reads files of that ending",
    "hidden": "name what begins with a dot in `path` or `glob`",
    "too_large": "raise max_document_bytes of the source",
    "not_utf8": "write the files in UTF-8",
    "not_text": "write the files in UTF-8",
    "binary": "give text, not what a program has packed",
    "unreadable": "make the files readable",
    "unreadable_folder": "make the folders readable",
    "changed": "give the command again when nobody writes to the files",
}
"""What to do where nothing was read, by the reason."""
MEND = "mend the sources, or their options (llama3 plugins show NAME)"
READERS = 2
FACTS = "facts"


@stage(output="corpus")
def curate(synthetic: Texts | None = None, *, options: CurateOptions, out: StageOutput) -> None:
    """Reads `options.sources` and `synthetic` text, writes the corpus (layout: llama3.data.corpus).

    Raises ConfigError, before any work, naming every source that is missing or empty, and DataError where nothing
    could be read or nothing is left for training, unless earlier corpora hold all of it: then the corpus is empty.
    """
    parts = None if out.logs is None else parts_folder(out.logs, options)
    folder = parts if parts is not None and parts.is_dir() else out.scratch / "parts"
    try:
        _curated(Curation(options, folder, () if synthetic is None else (MadeTexts(synthetic),)), out)
    except BaseException as error:
        if is_disk_full(error):
            shutil.rmtree(out.scratch / "parts", ignore_errors=True)  # a full disk is not kept full
        raise
    shutil.rmtree(folder, ignore_errors=True)
    if parts is not None and folder == parts:
        forget_facts(parts.parent / FACTS)


def _curated(curation: Curation, out: StageOutput) -> None:
    options = curation.options
    with ThreadPoolExecutor(curation.threads) as pool, _set_where_it_ends_early(curation.ending):
        staged = _read(curation, pool, out)
        decision = curation.decision(staged)
        material = curation.material(staged, decision)
        needed = curation.counts(material)
        if needed:
            _each(pool, "count", decision, lambda part: curation.count(material, part), out)
        counted = curation.counted(material)
        _each(pool, "judge", decision, lambda part: curation.write(material, part, counted), out)
    written = _written(curation, material)
    filters = build_filters(options.filters)
    tables = [DOCUMENTS, SCORES, REJECTS]
    tables += [EDITED] if editing(filters) else []
    tables += [BANDS] if curation.near is not None else []
    for commit, part in zip(written, decision.parts, strict=True):
        for table in tables:
            name = part_name(part.number) if table != BANDS else f"{part.number:06}.run"
            _link(commit.files[f".{table}"], out.path / table / name)
    books = _books(curation, decision, written, out, list(filters))
    frequent = 0 if counted is None else counted["frequent"]
    out.metrics["lines"] = {"frequent": frequent, "dropped": sum(commit["dropped"] for commit in written)}
    out.metrics["decontamination"] = curation.cleaning.report()
    out.metrics["without_model"] = without_model(filters)
    write_json_atomic(out.path / STAMPS, dict(stamps(filters)))
    write_samples(out.path, staged, private_of(filters))
    _ring(removal_alarms(books.stages, out.metrics["rejects"], options.alarm.most), options.alarm, out)
    if decision.kept and not books.documents("train"):
        raise NOTHING_LEFT("curate", lost=_counted(out.metrics["rejects"]))


@contextmanager
def _set_where_it_ends_early(ending: threading.Event) -> Iterator[None]:
    """Nobody waits for the answers of filters any more, so that what is broken off ends at once."""
    try:
        yield
    except BaseException:
        ending.set()
        raise


def _read(curation: Curation, pool: ThreadPoolExecutor, out: StageOutput) -> Staged:
    """All shards. Two are read at a time, and their portions made on the threads of `pool`."""
    losses, quarantined, documents = Losses(), 0, 0
    numbers = range(len(curation.shards))
    with (
        out.progress("read", sum(shard.bytes for _, shard in curation.shards), unit="B") as task,
        ThreadPoolExecutor(min(READERS, curation.threads)) as readers,
    ):
        read = readers.map(lambda number: curation.read(number, pool), numbers)
        for (_, shard), found in zip(curation.shards, read, strict=True):
            if found.quarantined:
                quarantined += 1
                out.event("shard_quarantined", source=shard.source, shard=place_of(shard), error=found.quarantined)
            losses.join(found.losses)
            documents += sum(portion.documents for portion in found.portions)
            task.advance(shard.bytes, documents=documents)
    out.metrics["quarantined_shards"] = quarantined
    out.metrics["shards"] = len(curation.shards)
    out.metrics["losses"] = losses.rows
    if not documents:
        fix = "; ".join(dict.fromkeys(MENDS.get(loss["reason"], MEND) for loss in losses.rows)) or MEND
        lost = "; ".join(map(_told, losses.rows)) or "nothing: they are empty"
        raise NOTHING_READ("curate", count=len(curation.shards), lost=lost, fix=fix)
    staged = curation.staged()
    assert staged is not None
    return staged


def _each(
    pool: ThreadPoolExecutor, what: str, decision: KeepDecision, work: Callable[[Part], None], out: StageOutput
) -> None:
    """Does the work for every part, several at a time."""
    with out.progress(what, len(decision.parts)) as task:
        for _ in pool.map(work, decision.parts):
            task.advance()


def _written(curation: Curation, material: Material) -> list[Commit]:
    found = [curation.written_part(material, part) for part in material.decision.parts]
    commits = [commit for commit in found if commit is not None]
    assert len(commits) == len(found)
    return commits


def _books(
    curation: Curation, decision: KeepDecision, written: Iterable[Commit], out: StageOutput, filters: list[str]
) -> Funnel:
    """The books of all parts together."""
    funnel, rejects, edits = Funnel(), dict[str, int](), dict[str, int]()
    for commit in written:
        funnel.join(commit["funnel"])
        curation.cleaning.join(commit["cleaning"])
        for key, count in commit["edits"].items():
            edits[key] = edits.get(key, 0) + count
    judged = [f"filter.{name}" for name in filters]
    stages = ["read", "url", "exact", "near", "lines", "decontaminate", "bounds", *judged, "edit", *SPLITS]
    funnel.in_order(stages)
    place = lambda key: next(number for number, stage in enumerate(stages) if key.startswith(f"{stage}."))
    for commit in written:
        for key, count in commit["rejects"].items():
            stage = stages[place(key)]
            count_reason(rejects, stage, key.removeprefix(f"{stage}."), count)
    out.metrics["rejects"] = {key: rejects[key] for key in sorted(rejects, key=place)}
    out.metrics["funnel"] = funnel.stages
    if decision.near is not None:
        out.metrics["near_duplicates"] = decision.near
    if curation.edits:
        out.metrics["edits"] = edits
    funnel.write(out.path / FUNNEL)
    return funnel


def _link(made: Path, target: Path) -> None:
    """The file under another name: nothing is copied where the file system can do without."""
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(made, target)
    except OSError:
        shutil.copyfile(made, target)


def _told(loss: dict[str, Any]) -> str:
    """What was lost for one reason, with the first that it was."""
    first = loss["examples"][0]
    return f"read.{loss['reason']} {loss['count']} ({first['where']}: {first['detail']})"


def _counted(rejects: dict[str, int]) -> list[str]:
    return [f"{reason} {count}" for reason, count in rejects.items()]


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


# -- shares ----------------------------------------------------------------------------------------


def parts_folder(run: Path, options: CurateOptions) -> Path:
    """Where processes put their pieces of a corpus with these options: beside the run, in which only one works."""
    facts = [__version__, options.model_dump(mode="json")]
    return run.with_name(f"{run.name}.parts") / _core.blake3_bytes(canonical_json(facts))


def facts_folder(run: Path) -> Path:
    """Where processes put what each would have to work out of the whole input (llama3.data.remembered)."""
    return run.with_name(f"{run.name}.parts") / FACTS


def forget_facts(folder: Path) -> None:
    """Removes them where no piece of a corpus lies beside them."""
    if folder.parent.is_dir() and {entry.name for entry in folder.parent.iterdir()} <= {FACTS}:
        shutil.rmtree(folder.parent, ignore_errors=True)


@dataclass(frozen=True)
class ShareDone:
    """How far a task came: the steps in which it did all that is its own, with how many pieces that were of how many,
    and the step in which it waits for others; "" where it has nothing left to do."""

    done: dict[Step, tuple[int, int]]
    waits_in: str


def take_share(curation: Curation, rank: int, world: int, last: Step = "write") -> ShareDone:
    """Makes every `world`-th piece from the `rank`-th on, of one step after the other, until pieces of others are
    missing. The tasks may be of any number and in any order, be killed and be given twice; the corpus is the same to
    the byte. What a step needs of all pieces together is done by the task that finds them complete.

    `last`: after which step it ends."""
    done: dict[Step, tuple[int, int]] = {}
    shards = range(len(curation.shards))
    for number in shards[rank::world]:
        curation.read(number)
    done["read"] = len(shards[rank::world]), len(shards)
    if last == "read":
        return ShareDone(done, "")
    staged = curation.staged()
    if staged is None:
        return ShareDone(done, "read")
    material = curation.material(staged, curation.decision(staged))
    parts = material.decision.parts
    mine = len(parts[rank::world]), len(parts)
    if curation.counts(material):
        for part in parts[rank::world]:
            curation.count(material, part)
        done["count"] = mine
        if last == "count":
            return ShareDone(done, "")
        if any(curation.counted_part(material, part) is None for part in parts):
            return ShareDone(done, "count")
    counted = curation.counted(material)
    for part in parts[rank::world]:
        curation.write(material, part, counted)
    done["write"] = mine
    return ShareDone(done, "")
