"""A user's own rows (`post_training.data: my.jsonl`) as the artifact that a training stage reads.

| rows (llama3.tasks.user_rows) | artifact | files |
|---|---|---|
| dialogs | dialogs | dialogs.jsonl |
| pairs | preferences | preferences.jsonl, and from them labels.jsonl (chosen true, others false) and prompts.jsonl |
| labels | preferences | labels.jsonl, and prompts.jsonl |
| prompts | preferences | prompts.jsonl: tasks whose check holds the row's other columns |

One prompt in ten is held out, by its text alone, unless its rows say `split` themselves: such rows go to held_out.jsonl
as they were written, and the reward `jsonl_tasks` asks them. Rows that occur twice are used once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import Stage, StageOutput, stage
from llama3.config.schema import Config
from llama3.errors import DataError, LlamaError, Problem
from llama3.plugins.registry import discover
from llama3.plugins.specs import AlgorithmSpec
from llama3.tasks import FILE_HELD_OUT_ONE_IN, Custom, Split, Task, prompt_digest, split_of_prompt
from llama3.tasks.rows import write_rows
from llama3.tasks.user_rows import Kind, UserRow, parse_row

MOST_PROBLEMS = 20
"""Problems of a file that are told at once."""
PREVIEW = 10_000
"""Rows that are read before a run starts; the stage reads all."""
TASKS = "jsonl_tasks"
"""The reward that scores tasks of a file."""

SUITS: dict[Kind, tuple[str, ...]] = {
    "dialogs": ("dialogs",),
    "pairs": ("pairs", "labels", "prompts"),
    "labels": ("labels", "prompts"),
    "prompts": ("prompts",),
}
"""What an algorithm may learn from (`AlgorithmSpec.data`), given rows of each kind."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row that was understood, with its number in the file (from 1) and as it was written."""

    number: int
    row: UserRow
    written: Mapping[str, Any]

    @property
    def split(self) -> Split:
        """On which side its prompt is: as the row says, else by the prompt's text."""
        return self.row.split or split_of_prompt(self.row.prompt_text, FILE_HELD_OUT_ONE_IN)


class UserDataOptions(BaseModel):
    """`content` is the file's hash: the path may change, the rows may not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(exclude=True)
    content: str

    @classmethod
    def of(cls, config: Config) -> UserDataOptions:
        """From the whole config; reads the file."""
        path = str(config.post_training.data)
        try:
            return cls(path=path, content=_core.blake3_file(path))
        except OSError as error:
            raise DataError(_unreadable(path, error)) from None


@stage(output="dialogs")
def own_dialogs(*, options: UserDataOptions, out: StageOutput) -> None:
    """Write rows that are dialogs. Raises DataError naming what is wrong, with line numbers, all at once."""
    _write(options, out)


@stage(output="preferences")
def own_preferences(*, options: UserDataOptions, out: StageOutput) -> None:
    """Write rows that are pairs, labels or prompts. Raises DataError as `own_dialogs` does."""
    _write(options, out)


def own_data(path: str) -> Stage:
    """The one of the two stages that fits a file's first row. Raises DataError where there is none."""
    (line,) = read_lines(Path(path), most=1)
    return own_dialogs if line.row.kind == "dialogs" else own_preferences


def _write(options: UserDataOptions, out: StageOutput) -> None:
    """The files of the table above."""
    path = Path(options.path)
    lines = read_lines(path)
    if _core.blake3_file(options.path) != options.content:
        raise DataError(Problem("L3-OWN-009", str(path), "the file changed while it was read", fix="run again"))
    unique = _without_duplicates(lines)
    splits = by_split(unique, path)
    train, held_out = splits["train"], [line.written for line in splits["held_out"]]
    if not train:
        what = f"all {len(unique)} rows are held out"
        raise DataError(Problem("L3-OWN-007", str(path), what, "one prompt in ten is", "add rows"))
    kind = train[0].row.kind
    for name, rows in _files(kind, path.stem, train).items():
        write_rows(out.path / name, rows)
    write_rows(out.path / "held_out.jsonl", held_out)
    repeated = sorted({line.number for line in lines} - {line.number for line in unique})
    out.event("own_data_read", rows=len(lines), repeated_lines=repeated[:MOST_PROBLEMS])
    out.metrics |= {"kind": kind, "rows": len(lines), "train": len(train), "held_out": len(held_out),
                    "repeated": len(lines) - len(unique)}  # fmt: skip


def own_data_problems(config: Config) -> list[Problem]:
    """What a run with `post_training.data` would stumble over, found without torch. Reads the first rows only."""
    if config.post_training.data is None:
        return []
    try:
        lines = read_lines(Path(config.post_training.data), most=PREVIEW)
    except DataError as error:
        return error.problems
    kind = lines[0].row.kind
    slot = config.post_training.sft.algorithm if kind == "dialogs" else config.post_training.algorithm
    try:
        spec = discover().spec("algorithms", slot.name)
    except LlamaError:
        return []  # reported with the config
    if not isinstance(spec, AlgorithmSpec) or spec.data in SUITS[kind]:
        return []
    needs = {"dialogs": "messages", "pairs": "chosen and rejected", "labels": "completion and label",
             "prompts": "prompt"}.get(spec.data, spec.data)  # fmt: skip
    what = f"{slot.name!r} learns from {spec.data}, the rows are {kind}"
    why = f"it needs the columns {needs}"
    return [Problem("L3-OWN-008", config.post_training.data, what, why, _fitting(kind))]


def _fitting(kind: Kind) -> str:
    specs = [discover().spec("algorithms", name) for name in discover().names("algorithms")]
    names = [spec.name for spec in specs if isinstance(spec, AlgorithmSpec) and spec.data in SUITS[kind]]
    return f"choose one of {', '.join(sorted(names))}" if names else "give other rows"


# Reading ------------------------------------------------------------------------------------------------------------


def read_lines(path: Path, most: int | None = None) -> list[Line]:
    """The first `most` rows, at least one. Raises DataError with all problems, the first MOST_PROBLEMS in full."""
    lines: list[Line] = []
    problems: list[Problem] = []
    for number, raw in _raw_lines(path):
        where = f"{path.name}:{number}"
        try:
            written = _object(raw, where)
            lines.append(Line(number, parse_row(written, where), written))
        except DataError as error:
            problems += error.problems
        if len(lines) + len(problems) == most:
            break
    if lines:
        first = lines[0].row.kind
        problems += [
            Problem("L3-OWN-006", f"{path.name}:{line.number}", f"this row is of {line.row.kind}, the first of {first}",
                    "one file holds rows of one kind", "split the file")
            for line in lines
            if line.row.kind != first
        ]  # fmt: skip
    elif not problems:
        problems = [Problem("L3-OWN-007", str(path), "there are no rows", fix="write one JSON object per line")]
    if problems:
        raise DataError([*problems[:MOST_PROBLEMS], *_rest(path, len(problems) - MOST_PROBLEMS)])
    return lines


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; a byte order mark goes."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    yield number, raw
    except OSError as error:
        raise DataError(_unreadable(str(path), error)) from None


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(Problem("L3-OWN-001", where, "not a line of JSON", str(error))) from None
    if not isinstance(value, dict):
        raise DataError(Problem("L3-OWN-001", where, "not a JSON object"))
    return value


def _unreadable(path: str, error: OSError) -> Problem:
    return Problem("L3-OWN-001", path, "cannot be read", error.strerror or str(error), "check post_training.data")


def _rest(path: Path, count: int) -> Iterable[Problem]:
    return [Problem("L3-OWN-001", str(path), f"and {count} more problems")] if count > 0 else []


def by_split(lines: Sequence[Line], path: Path) -> dict[Split, list[Line]]:
    """The rows of each side. Raises DataError where a prompt is on both, which only rows with `split` can do."""
    sides: dict[Split, list[Line]] = {"train": [], "held_out": []}
    numbers: dict[str, dict[Split, int]] = {}
    for line in lines:
        sides[line.split].append(line)
        numbers.setdefault(prompt_digest(line.row.prompt_text), {})[line.split] = line.number
    problems = [
        Problem("L3-OWN-010", f"{path.name}:{both['held_out']}",
                f"this held-out prompt is trained on in line {both['train']}",
                fix="give all rows of a prompt the same split")
        for both in numbers.values()
        if len(both) == 2
    ]  # fmt: skip
    if problems:
        raise DataError(problems[:MOST_PROBLEMS])
    return sides


def _without_duplicates(lines: Sequence[Line]) -> list[Line]:
    """The first of equal rows, whatever their ids."""
    seen: dict[str, Line] = {}
    for line in lines:
        key = json.dumps({name: value for name, value in line.written.items() if name != "id"}, sort_keys=True)
        seen.setdefault(key, line)
    return list(seen.values())


# Writing ------------------------------------------------------------------------------------------------------------


def _files(kind: Kind, stem: str, lines: Sequence[Line]) -> dict[str, list[dict[str, Any]]]:
    """Rows by file name."""
    rows = list(zip(_ids(stem, lines), (line.row for line in lines), strict=True))
    if kind == "dialogs":
        return {"dialogs.jsonl": [_dialog(name, row) for name, row in rows]}
    files = {"prompts.jsonl": [task.to_json() for task in _tasks(stem, rows)]}
    if kind == "pairs":
        files["preferences.jsonl"] = [pair for name, row in rows for pair in _pairs(name, row)]
    if kind in ("pairs", "labels"):
        files["labels.jsonl"] = [label for name, row in rows for label in _labels(name, row)]
    return files


def _ids(stem: str, lines: Sequence[Line]) -> list[str]:
    """The rows' own ids where all have different ones, else the file's name and the line."""
    own = [line.row.id for line in lines]
    if None not in own and len(set(own)) == len(own):
        return [str(name) for name in own]
    return [f"{stem}-{line.number}" for line in lines]


def _dialog(name: str, row: UserRow) -> dict[str, Any]:
    messages = [*row.prompt, {"role": "assistant", "content": row.answers[0]}]
    return {"id": name, "source": "own_data", "messages": messages}


def _pairs(name: str, row: UserRow) -> Iterator[dict[str, Any]]:
    """A pair, with its edit; of a ranking every answer with the next one."""
    prompt = list(row.prompt)
    if row.edited:
        edited, chosen, rejected = row.answers
        yield {"id": name, "messages": prompt, "chosen": chosen, "rejected": rejected, "edited": edited}
        return
    for i, (better, worse) in enumerate(pairwise(row.answers)):
        yield {"id": f"{name}.{i}" if i else name, "messages": prompt, "chosen": better, "rejected": worse}


def _labels(name: str, row: UserRow) -> Iterator[dict[str, Any]]:
    """A labelled answer; of a pair the last is bad and those above it are good, of a longer ranking only the first."""
    good = len(row.answers) - 1 if row.edited else 1
    for i, answer in enumerate(row.answers):
        label = row.label if row.kind == "labels" else i < good
        yield {"id": f"{name}.{i}" if i else name, "messages": list(row.prompt), "completion": answer, "label": label}


def _tasks(stem: str, rows: Iterable[tuple[str, UserRow]]) -> Iterator[Task]:
    """The different prompts, as tasks; those that do not end with the user cannot be asked."""
    seen: set[str] = set()
    for _, row in rows:
        digest = prompt_digest(row.prompt_text)
        if digest not in seen and row.prompt[-1]["role"] == "user":
            seen.add(digest)
            yield task_of(row, stem, digest)


def task_of(row: UserRow, stem: str, digest: str) -> Task:
    """The task that asks a row's prompt. Its check holds the row's other columns, for the reward that knows them."""
    *context, question = row.prompt
    answer = row.columns.get("answer")
    reference = "" if answer is None else str(answer)
    family = f"file.{stem}"
    check = Custom(TASKS, dict(row.columns))
    return Task(f"{family}-{digest[:12]}", family, question["content"], reference, check, tuple(context))
