"""The folder in which annotations lie: what is judged, and what each annotator said of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from llama3.annotating.items import PairItem, TextItem, pair_item, text_item
from llama3.annotating.judgements import Annotation, check_line, pair_line
from llama3.annotating.lines import MOST_PROBLEMS, AnnotationFile, Row, read_lines
from llama3.artifacts.lock import RunLock
from llama3.errors import ArtifactError, ConfigError, DataError, Problem

BAD_NAME = ConfigError.declare(
    "L3-ANN-040", "{name!r} is no annotator's name", fix="use 1 to 32 of a-z, 0-9, - and _, a letter or digit first"
)
IN_USE = ArtifactError.declare(
    "L3-ANN-041",
    "these annotations are open already",
    why="{holder}",
    fix="use the page of that process, or stop it; one process serves any number of annotators",
)
NO_ITEMS = ArtifactError.declare(
    "L3-ANN-044", "the file is missing", why="{judged} judges what it held", fix="put it back from a copy"
)
NO_ITEM = DataError.declare(
    "L3-ANN-042", "there is no item {item}", why="the line judges what {items} does not hold", fix="remove the line"
)
ODD_NUMBER = DataError.declare(
    "L3-ANN-043",
    "this is judgement {number} of the item, the file has {before} before it",
    why="a line was added, moved or removed by hand",
    fix="put the lines back, or count `number` from 0 for each item",
)

ANNOTATIONS = "annotations"
"""The folder of a run that they lie in."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
READS: dict[str, tuple[Callable[[Row, str], Any], Callable[[Row, str], Annotation]]] = {
    "pairs": (pair_item, pair_line),
    "check": (text_item, check_line),
}
"""By kind what reads items, and what reads judgements."""

I = TypeVar("I", PairItem, TextItem)  # noqa: E741


class Opened(Generic[I]):
    """Items of one kind and the judgements of some annotators, open for more. Raises DataError with what is wrong in
    any of the files; nothing is changed then."""

    def __init__(self, folder: Path, kind: str, annotators: Sequence[str], items: Sequence[I]) -> None:
        read_item, _ = READS[kind]
        everybody = read_judgements(folder, kind)
        self._items: AnnotationFile[I] = AnnotationFile(folder / f"{kind}.jsonl", read_item)
        self.items: dict[str, I] = {item.id: item for item in self._items.lines}
        self.add(items)
        self._said = {name: AnnotationFile(_file(folder, kind, name), READS[kind][1]) for name in annotators}
        self._latest = {name: {**everybody.get(name, {})} for name in annotators}
        self.others = {name: of for name, of in everybody.items() if name not in annotators}
        """Judgements of those who are not here."""
        self._journals: list[AnnotationFile[Any]] = [self._items, *self._said.values()]
        self.cut_short = [journal.path.name for journal in self._journals if journal.cut_short]

    def add(self, items: Sequence[I]) -> None:
        """Add those that are not there."""
        new = {item.id: item for item in items if item.id not in self.items}
        self._items.append([{"id": name, **item.to_json()} for name, item in new.items()])
        self.items |= new

    def latest(self, name: str) -> Mapping[str, Annotation]:
        """What an annotator last said of each item, in the order of the first judgements."""
        return self._latest[name]

    def last_judged(self, name: str, before: str = "") -> str | None:
        """The item that the annotator judged last, or before another one."""
        judged = list(self._latest[name])
        end = judged.index(before) if before in judged else len(judged)
        return judged[end - 1] if end else None

    def next_item(self, name: str) -> I | None:
        """The first item that the annotator has not judged."""
        return next((item for id, item in self.items.items() if id not in self._latest[name]), None)

    def say(self, name: str, judgement: Annotation) -> None:
        """Write down a judgement; it is on the disk then."""
        self._said[name].append([judgement.to_json()])
        self._latest[name][judgement.item] = judgement

    def close(self) -> None:
        """Let go of the files."""
        for journal in self._journals:
            journal.close()


def locked(folder: Path) -> RunLock:
    """The right to write in the folder, which is made where it is not there. Raises ArtifactError where another process
    has it."""
    folder.mkdir(exist_ok=True)
    try:
        return RunLock(folder)
    except ArtifactError as error:
        raise IN_USE(folder, holder=error.problems[0].what.rpartition("directory: ")[2]) from None


def check_name(name: str) -> str:
    """The name. Raises ConfigError where it cannot be one."""
    if not NAME.fullmatch(name):
        raise BAD_NAME("--as", name=name)
    return name


def read_items(folder: Path, kind: str) -> dict[str, Any]:
    """The items of a kind by id. Raises DataError."""
    return {item.id: item for item in read_lines(folder / f"{kind}.jsonl", READS[kind][0])}


def read_judgements(folder: Path, kind: str) -> dict[str, dict[str, Annotation]]:
    """What every annotator last said of each item. Raises DataError with what is wrong in any of the files."""
    found: dict[str, dict[str, Annotation]] = {}
    problems: list[Problem] = []
    items: Mapping[str, Any] | None = None
    try:
        items = read_items(folder, kind)
    except DataError as error:
        problems += error.problems
    judged = sorted(folder.glob(f"{kind}-*.jsonl"))
    if judged and not (folder / f"{kind}.jsonl").exists() and any(path.stat().st_size for path in judged):
        raise NO_ITEMS(folder / f"{kind}.jsonl", judged=", ".join(path.name for path in judged))
    for path in judged:
        try:
            said = read_lines(path, lambda row, where: (where, READS[kind][1](row, where)))
            if items is not None:
                _check_order(said, items, f"{kind}.jsonl")
            found[path.stem.partition("-")[2]] = {one.item: one for _, one in said}
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems)
    return found


def _check_order(said: Sequence[tuple[str, Annotation]], items: Mapping[str, Any], file: str) -> None:
    """Raises DataError where a judgement is of no item, or is not the next one of its item."""
    problems = []
    before: Counter[str] = Counter()
    for where, one in said:
        if one.item not in items:
            problems.append(NO_ITEM.problem(where, item=one.item, items=file))
        elif one.number != before[one.item]:
            problems.append(ODD_NUMBER.problem(where, number=one.number, before=before[one.item]))
        before[one.item] += 1
    if problems:
        raise DataError.of(problems[:MOST_PROBLEMS])


def _file(folder: Path, kind: str, name: str) -> Path:
    return folder / f"{kind}-{name}.jsonl"
