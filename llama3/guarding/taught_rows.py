"""Rows that a guard of the kind of Llama Guard learns from, and the stage that makes dialogs for SFT of them.

A row is {text | turns, role, label, categories}: a message, or a conversation whose last message is judged.

role: "user" or "assistant", who wrote `text`; in `turns` each message says it: {role, content}
label: "safe" or "unsafe"; categories: the violated ones, numbers of the taxonomy, for unsafe rows
group: what belongs together; without it the text. A group stands on one side.

As in the first Llama Guard (Inan et al. 2023, section 3.2) rows are varied: categories that are not violated are left
out at random, all violated ones are now and then (then the row is safe), and categories change places and numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3.artifacts import StageOutput, stage
from llama3.errors import DataError, Problem
from llama3.guarding.asked import LlamaGuardTraining, StageOptions
from llama3.guarding.lines import read_lines
from llama3.guarding.prompt_rows import NO_TEXT, ODD_COLUMNS, place_of, refuse
from llama3.guarding.taught_frame import LLAMA_GUARD_3, ROLES, SAFE, UNSAFE, framed, verdict_of
from llama3.safety.guard import Turn
from llama3.tasks.rows import write_rows

ODD_VERDICT = DataError.declare("L3-GRD-050", "the label is {label!r}", fix="write safe or unsafe")
ODD_ROLE = DataError.declare("L3-GRD-051", "the role is {role!r}", fix="write user or assistant")
ODD_CATEGORIES = DataError.declare(
    "L3-GRD-052", "an {label} row with the categories {categories}", fix="name those that are violated, of {known}"
)
NO_TURNS = DataError.declare("L3-GRD-053", "it has neither text nor turns, or both", fix="give one of the two")
NO_SIDE = DataError.declare(
    "L3-GRD-054",
    "{train} rows are to learn from and {held_out} are held out",
    why="both sides need some, safe and unsafe ones",
    fix="add rows, or change held_out",
)

COLUMNS = ("text", "turns", "role", "label", "categories", "group")
HELD_OUT_FILE = "held_out.jsonl"


@dataclass(frozen=True, slots=True)
class HazardRow:
    """A conversation and what its last message violates; nothing where it is safe."""

    turns: tuple[Turn, ...]
    violated: tuple[str, ...]
    group: str

    def written(self) -> dict[str, Any]:
        """As a row of a file."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        label = UNSAFE if self.violated else SAFE
        return {"turns": turns, "label": label, "categories": list(self.violated), "group": self.group}


class GuardRowsOptions(StageOptions):
    """`asked` without the places of the files, whose contents count."""

    asked: LlamaGuardTraining


@stage(output="dialogs")
def guard_rows(*, options: GuardRowsOptions, out: StageOutput) -> None:
    """Write dialogs.jsonl, from which SFT learns, and held_out.jsonl. Raises DataError naming every bad row."""
    asked, taxonomy = options.asked, options.asked.taxonomy or LLAMA_GUARD_3
    rows = read_hazard_rows([Path(file) for file in asked.data], taxonomy)
    held_out = [row for row in rows if place_of(row.group) < asked.held_out]
    learnt = [row for row in rows if place_of(row.group) >= asked.held_out]
    if any(len({bool(row.violated) for row in side}) < 2 for side in (held_out, learnt)):
        raise NO_SIDE("data", train=len(learnt), held_out=len(held_out))
    dialogs = [
        dialog for place, row in enumerate(learnt) for dialog in _dialogs(row, asked, taxonomy, options.seed, place)
    ]
    write_rows(out.path / "dialogs.jsonl", dialogs)
    write_rows(out.path / HELD_OUT_FILE, [row.written() for row in held_out])
    out.metrics |= {"rows": len(learnt), "dialogs": len(dialogs), "held_out": len(held_out)}


def read_hazard_rows(paths: Sequence[Path], taxonomy: Mapping[str, str]) -> list[HazardRow]:
    """The rows of all files, each conversation once. Raises DataError with what is wrong, many at once."""
    problems: list[Problem] = []
    found: dict[tuple[Turn, ...], HazardRow] = {}
    for path in paths:
        for where, row in read_lines(path, problems):
            if wrong := list(_problems(row, taxonomy, where)):
                problems += wrong
                continue
            turns = tuple(Turn(turn["role"], turn["content"]) for turn in _turns(row))
            violated = tuple(number for number in taxonomy if number in row.get("categories", ()))
            found.setdefault(turns, HazardRow(turns, violated, row.get("group", turns[-1].content)))
    refuse(problems)
    return list(found.values())


def _turns(row: Mapping[str, Any]) -> Sequence[Any]:
    return row["turns"] if "turns" in row else [{"role": row.get("role", "user"), "content": row["text"]}]


def _problems(row: Mapping[str, Any], taxonomy: Mapping[str, str], where: str) -> Iterator[Problem]:
    if unknown := sorted(row.keys() - set(COLUMNS)):
        yield ODD_COLUMNS.problem(where, columns=unknown, known=list(COLUMNS))
    if ("text" in row) == ("turns" in row):
        yield NO_TURNS.problem(where)
        return
    turns = _turns(row)
    if not isinstance(turns, list) or not turns:
        yield NO_TEXT.problem(where, column="turns")
        return
    for turn in turns:
        role, content = (turn.get(key) if isinstance(turn, dict) else None for key in ("role", "content"))
        if role not in ROLES:
            yield ODD_ROLE.problem(where, role=role)
        if not isinstance(content, str) or not content.strip():
            yield NO_TEXT.problem(where, column="text" if "text" in row else "a message")
    label, named = row.get("label"), row.get("categories", [])
    if label not in (SAFE, UNSAFE):
        yield ODD_VERDICT.problem(where, label=label)
    elif not isinstance(named, list) or not set(map(str, named)) <= taxonomy.keys() or bool(named) != (label == UNSAFE):
        yield ODD_CATEGORIES.problem(where, label=label, categories=named, known=list(taxonomy))


def _dialogs(
    row: HazardRow, asked: LlamaGuardTraining, taxonomy: Mapping[str, str], seed: int, place: int
) -> Iterator[dict[str, Any]]:
    """The row as it is, and its variants."""
    yield _dialog(row.turns, taxonomy, row.violated)
    rng = random.Random(f"{seed}:{place}")
    for _ in range(asked.augment.copies):
        yield _dialog(row.turns, *varied(row.violated, asked, taxonomy, rng))


def _dialog(turns: Sequence[Turn], taxonomy: Mapping[str, str], violated: Sequence[str]) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": framed(turns, taxonomy)},
        {"role": "assistant", "content": verdict_of(violated)},
    ]
    return {"messages": messages}


def varied(
    violated: Sequence[str], asked: LlamaGuardTraining, taxonomy: Mapping[str, str], rng: random.Random
) -> tuple[dict[str, str], list[str]]:
    """Another list of categories, and which of it are violated."""
    augment = asked.augment
    keeps_violated = rng.random() >= augment.drop_violated
    kept = [n for n in taxonomy if (keeps_violated if n in violated else rng.random() >= augment.drop)]
    kept = kept or [n for n in taxonomy if n not in violated][:1] or list(violated[:1])
    names = [taxonomy[number] for number in kept]
    if rng.random() < augment.shuffle:
        rng.shuffle(names)
    own = {taxonomy[number] for number in violated}
    listed = dict(zip(kept, names, strict=True))
    return listed, [number for number, name in listed.items() if name in own]
