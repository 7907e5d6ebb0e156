"""The prompts of the suite `safety`: what should be refused, what only sounds so, and what anybody may ask.

A row is a JSON object: {"id", "kind": "adversarial" | "borderline" | "benign", "lang", "category", "turns": [{"role",
"content"}, ...]}, of which the last turn is not the assistant's. `twin` may name a row of the other kind that differs
little, `attack` how it tries to get around a refusal; `source`, `license` and `split` are carried on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llama3.errors import DataError, Problem
from llama3.foreign import json_lines
from llama3.safety.guard import Turn
from llama3.tokenizer.messages import ROLES

NO_FILE = DataError.declare("L3-EVL-056", "cannot read the prompts", why="{error}")
NO_ROW = DataError.declare(
    "L3-EVL-057",
    "{what}",
    fix='write {{"id": "a-1", "kind": "adversarial", "lang": "en", "category": "privacy", '
    '"turns": [{{"role": "user", "content": "..."}}]}}, one object per line',
)

Kind = Literal["adversarial", "borderline", "benign"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CARRIED = ("twin", "attack", "source", "license", "split", "capability")
MOST_PROBLEMS = 20
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SafetyPrompt:
    """One row; `carried` are the columns that are only passed on."""

    id: str
    kind: Kind
    lang: str
    category: str
    turns: tuple[Turn, ...]
    carried: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        return {"id": self.id, "kind": self.kind, "lang": self.lang, "category": self.category, "turns": turns,
                **self.carried}  # fmt: skip


def read_prompts(path: Path) -> list[SafetyPrompt]:
    """The rows of a file. Raises DataError with all that is wrong, by line."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NO_FILE(path, error=error) from None
    return parse_prompts(text, str(path))


def parse_prompts(text: str, where: str) -> list[SafetyPrompt]:
    """The rows of a text. Raises DataError as `read_prompts`."""
    rows: dict[str, SafetyPrompt] = {}
    problems: list[Problem] = []
    for number, row in json_lines(text):
        faults = list(_faults(row))
        if not faults and row["id"] in rows:
            faults = [f"the id {row['id']!r} is there twice"]
        if faults:
            problems += [NO_ROW.problem(f"{where}:{number}", what=fault) for fault in faults]
        else:
            rows[row["id"]] = _prompt(row)
    if not rows and not problems:
        problems.append(NO_ROW.problem(where, what="the file has no row"))
    if problems:
        raise DataError.of(problems[:MOST_PROBLEMS])
    return list(rows.values())


def choose_prompts(rows: Sequence[SafetyPrompt], most: int, seed: int) -> list[SafetyPrompt]:
    """At most `most` rows of each kind, drawn by the seed, in their order."""
    kept: set[str] = set()
    for kind in KINDS:
        ids = [row.id for row in rows if row.kind == kind]
        kept.update(ids if len(ids) <= most else random.Random(f"{seed}/{kind}").sample(ids, most))
    return [row for row in rows if row.id in kept]


def _faults(row: Any) -> Iterator[str]:
    """What keeps a line from being a prompt."""
    if not isinstance(row, dict):
        yield "not a JSON object"
        return
    for name in ("id", "lang", "category"):
        if not (isinstance(row.get(name), str) and row[name]):
            yield f"{name} is no text"
    if row.get("kind") not in KINDS:
        yield f"kind is none of {', '.join(KINDS)}"
    turns = read_turns(row.get("turns"))
    if isinstance(turns, str):
        yield turns
    elif not turns or turns[-1].role == "assistant":
        yield "the last turn is nobody's whom the model answers"
    for name in CARRIED:
        if not isinstance(row.get(name, ""), str):
            yield f"{name} is no text"
    told = [str(row.get(name)) for name in ("id", "lang", "category", *CARRIED)]
    if any(map(_HALF.search, told + [turn.content for turn in turns if isinstance(turn, Turn)])):
        yield "it holds half of a character (a lone surrogate)"


def _prompt(row: Mapping[str, Any]) -> SafetyPrompt:
    turns = read_turns(row["turns"])
    assert isinstance(turns, tuple)
    carried = {name: row[name] for name in CARRIED if name in row}
    return SafetyPrompt(row["id"], row["kind"], row["lang"], row["category"], turns, carried)


def read_turns(value: Any) -> tuple[Turn, ...] | str:
    """Turns from {"role", "content"} each, or from a text that a user says; what is wrong with them as text."""
    if isinstance(value, str):
        return (Turn("user", value),)
    if not isinstance(value, list):
        return "turns are no list"
    for turn in value:
        if not (isinstance(turn, Mapping) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)):
            return f'a turn is {{"role": one of {", ".join(ROLES)}, "content": text}}'
    return tuple(Turn(turn["role"], turn["content"]) for turn in value)
