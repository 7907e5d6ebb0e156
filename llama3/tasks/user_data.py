"""A user's own rows (`post_training.data: my.jsonl`) as the artifact that a training stage reads.

The kind of the rows (llama3.tasks.data_kind) says of which type the artifact is, and its files: one for each kind that
the rows can be learnt as. One prompt in ten is held out, by its text alone, unless its rows say `split` themselves:
such rows go to held_out.jsonl as they were written. Rows that occur twice are used once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import Stage, StageOutput, stage
from llama3.config.schema import Config, PostTrainingSection
from llama3.config.slot_types import DataKindSlot, Slot
from llama3.errors import ConfigError, DataError, LlamaError, Problem
from llama3.plugins.asking import ODD_RESULT, asking, json_fault
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.tasks import FILE_HELD_OUT_ONE_IN, Split, prompt_digest, split_of_prompt
from llama3.tasks.contradictions import contradictions
from llama3.tasks.data_kind import UserRow, data_kind, data_kind_spec, written_kinds
from llama3.tasks.rows import write_rows
from llama3.tasks.user_files import UNREADABLE, rows_of
from llama3.tasks.user_rows import parse_row

OTHER_KIND = DataError.declare(
    "L3-OWN-006",
    "this row is of {kind}, the first of {first}",
    why="one file holds rows of one kind",
    fix="split the file",
)
NO_ROWS = DataError.declare("L3-OWN-007", "there are no rows", fix="write one JSON object per line")
OTHER_ALGORITHM = ConfigError.declare(
    "L3-OWN-008",
    "{algorithm!r} learns from {data}, the rows are {rows}",
    why="it needs the columns {columns}",
    fix="{fix}",
)
CHANGED = DataError.declare("L3-OWN-009", "the file changed while it was read", fix="run again")
ON_BOTH_SIDES = DataError.declare(
    "L3-OWN-010",
    "this held-out prompt is trained on in line {line}",
    fix="give all rows of a prompt the same split",
)
MORE = DataError.declare("L3-OWN-013", "and {count} more problems")
ALL_HELD_OUT = DataError.declare(
    "L3-OWN-014", "all {rows} rows are held out", why="one prompt in ten is", fix="add rows"
)

MOST_PROBLEMS = 20
"""Problems of a file that are told at once."""
PREVIEW = 10_000
"""Rows that are read before a run starts; the stage reads all."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row that was understood, with its number in the file (from 1) and as user_files read it."""

    number: int
    row: UserRow
    written: Mapping[str, Any]

    @property
    def split(self) -> Split:
        """On which side its prompt is: as the row says, else by the prompt's text."""
        return self.row.split or split_of_prompt(self.row.prompt_text, FILE_HELD_OUT_ONE_IN)


class UserDataOptions(BaseModel):
    """`content` is the file's hash: the path may change, the rows may not. `kind` is that of the first row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    content: str
    kind: DataKindSlot

    @classmethod
    def of(cls, config: Config) -> UserDataOptions:
        """From the whole config; reads the file."""
        path = str(config.post_training.data)
        try:
            content = _core.blake3_file(path)
        except OSError as error:
            raise UNREADABLE(path, error=error) from None
        (first,) = read_lines(Path(path), most=1)
        return cls(path=path, content=content, kind=Slot(name=first.row.kind))


@stage(output="dialogs")
def own_dialogs(*, options: UserDataOptions, out: StageOutput) -> None:
    """Write rows to finetune on. Raises DataError naming what is wrong, with line numbers, all at once."""
    _write(options, out)


@stage(output="preferences")
def own_preferences(*, options: UserDataOptions, out: StageOutput) -> None:
    """Write rows for the preference stage. Raises DataError as `own_dialogs` does."""
    _write(options, out)


def own_data(options: UserDataOptions) -> Stage:
    """The one of the two stages that makes the artifact of the rows' kind."""
    return own_dialogs if data_kind_spec(options.kind.name).artifact == "dialogs" else own_preferences


def _write(options: UserDataOptions, out: StageOutput) -> None:
    """The files of the rows' kind."""
    path = Path(options.path)
    lines = read_lines(path)
    if _core.blake3_file(options.path) != options.content:
        raise CHANGED(path)
    unique = _without_duplicates(lines)
    splits = by_split(unique, path)
    train, held_out = splits["train"], [line.written for line in splits["held_out"]]
    if not train:
        raise ALL_HELD_OUT(path, rows=len(unique))
    kind = train[0].row.kind
    rows = _with_ids(path.stem, train)
    with asking(f"data_kinds.{kind}", "stored"):
        writers = dict(data_kind(kind).stored)
    for name, write in writers.items():
        with asking(f"data_kinds.{kind}", f"stored[{name!r}]"):
            written = list(write(rows, path.stem))
        if odd := next((fault for row in written if (fault := json_fault(row))), ""):
            raise ODD_RESULT(f"data_kinds.{kind}", method=f"stored[{name!r}]", fault=f"of one row {odd}")
        write_rows(out.path / data_kind_spec(name).file, written)
    write_rows(out.path / "held_out.jsonl", held_out)
    contrary = contradictions(line.row for line in splits["train"])
    repeated = sorted({line.number for line in lines} - {line.number for line in unique})
    out.event("own_data_read", rows=len(lines), repeated_lines=repeated[:MOST_PROBLEMS])
    out.metrics |= {"kind": kind, "rows": len(lines), "train": len(train), "held_out": len(held_out),
                    "repeated": len(lines) - len(unique),
                    **({"contradictions": contrary} if contrary else {})}  # fmt: skip


def own_data_problems(config: Config) -> list[Problem]:
    """What a run with `post_training.data` would stumble over, found without torch. Reads the first rows only."""
    post = config.post_training
    if post.data is None:
        return []
    try:
        rows = read_lines(Path(post.data), most=PREVIEW)[0].row.kind
        learnt_as, artifact = list(data_kind(rows).stored), data_kind_spec(rows).artifact
    except LlamaError as error:
        return list(error.problems)
    specs = {name: spec for name in discover().names("algorithms") if (spec := _algorithm(name)) is not None}
    fitting = sorted(name for name, spec in specs.items() if spec.data in learnt_as)
    fix = f"choose one of {', '.join(fitting)}" if fitting else "give other rows"
    return [
        OTHER_ALGORITHM.problem(
            post.data, algorithm=name, data=specs[name].data, rows=rows, columns=_columns(specs[name].data), fix=fix
        )
        for name in _learners(post, artifact)
        if name in specs and specs[name].data not in learnt_as
    ]  # fmt: skip


def _learners(post: PostTrainingSection, artifact: str) -> list[str]:
    """The algorithms that read an artifact of this type."""
    if artifact == "dialogs":
        return [post.sft.algorithm.name]
    return [post.algorithm.name, *([] if post.reward is None else [post.reward.algorithm.name])]


def _algorithm(name: str) -> AlgorithmSpec | None:
    """The spec, or None for an algorithm that cannot be used: it is reported with the config."""
    try:
        spec = discover().spec("algorithms", name)
    except LlamaError:
        return None
    return spec if isinstance(spec, AlgorithmSpec) else None


def _columns(kind: str) -> str:
    """The columns of a kind, in words."""
    written = written_kinds().get(kind)
    return ", or ".join(" and ".join(columns) for columns in written.required) if written else "of " + kind


def read_lines(path: Path, most: int | None = None) -> list[Line]:
    """The first `most` rows, at least one. Raises DataError with all problems, the first MOST_PROBLEMS in full."""
    lines: list[Line] = []
    problems: list[Problem] = []
    kinds = written_kinds()
    for number, written in rows_of(path):
        try:
            if isinstance(written, DataError):
                raise written
            lines.append(Line(number, parse_row(kinds, written, f"{path.name}:{number}"), written))
        except DataError as error:
            problems += error.problems
        if len(lines) + len(problems) == most:
            break
    if lines:
        first = lines[0].row.kind
        problems += [
            OTHER_KIND.problem(f"{path.name}:{line.number}", kind=line.row.kind, first=first)
            for line in lines
            if line.row.kind != first
        ]
    elif not problems:
        problems = [NO_ROWS.problem(path)]
    if problems:
        raise DataError.of([*problems[:MOST_PROBLEMS], *_rest(path, len(problems) - MOST_PROBLEMS)])
    return lines


def _rest(path: Path, count: int) -> Iterable[Problem]:
    return [MORE.problem(path, count=count)] if count > 0 else []


def by_split(lines: Sequence[Line], path: Path) -> dict[Split, list[Line]]:
    """The rows of each side. Raises DataError where a prompt is on both, which only rows with `split` can do."""
    sides: dict[Split, list[Line]] = {"train": [], "held_out": []}
    numbers: dict[str, dict[Split, int]] = {}
    for line in lines:
        sides[line.split].append(line)
        numbers.setdefault(prompt_digest(line.row.prompt_text), {})[line.split] = line.number
    problems = [
        ON_BOTH_SIDES.problem(f"{path.name}:{both['held_out']}", line=both["train"])
        for both in numbers.values()
        if len(both) == 2
    ]
    if problems:
        raise DataError.of([*problems[:MOST_PROBLEMS], *_rest(path, len(problems) - MOST_PROBLEMS)])
    return sides


def _without_duplicates(lines: Sequence[Line]) -> list[Line]:
    """The first of equal rows, whatever their ids."""
    seen: dict[str, Line] = {}
    for line in lines:
        key = json.dumps({name: value for name, value in line.written.items() if name != "id"}, sort_keys=True)
        seen.setdefault(key, line)
    return list(seen.values())


def _with_ids(stem: str, lines: Sequence[Line]) -> list[UserRow]:
    """The rows with their own ids where all have different ones, else with the file's name and the line."""
    own = [line.row.id for line in lines]
    if None not in own and len(set(own)) == len(own):
        return [line.row for line in lines]
    return [replace(line.row, id=f"{stem}-{line.number}") for line in lines]


def place_of(path: Path, id: str) -> str:
    """File and line of the row of which the stage wrote one with this id, for people: kinds that make several rows of
    one number them behind its id. The id in place of the line where no row has it."""
    lines = by_split(_without_duplicates(read_lines(path)), path)["train"]
    for line, row in zip(lines, _with_ids(path.stem, lines), strict=True):
        if id == row.id or id.rpartition(".")[0] == row.id:
            return f"{path.name}:{line.number}"
    return f"{path.name}: row {id}"
