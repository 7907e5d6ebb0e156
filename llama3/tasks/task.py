"""What a verifiable task is, and how training and held-out tasks are kept apart.

An *instance* is a family and its arguments, `("arithmetic.add", [3, 9])`: what is asked, whatever the wording. The hash
of the instance alone decides its split, so no seed, count or template can bring a held-out instance into training.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llama3.errors import DataError

NO_TASK = DataError.declare("L3-TSK-001", "this row is not a verifiable task", why="{error!r}")
NOT_ENOUGH = DataError.declare(
    "L3-TSK-002",
    "only {available} distinct {split} tasks exist, {asked} were asked for",
    fix="ask for fewer tasks, add families, or name a reward that has more",
)

Split = Literal["train", "held_out"]
Args = tuple[Any, ...]

HELD_OUT_ONE_IN = 4
"""One instance in this many is held out."""
FILE_HELD_OUT_ONE_IN = 10
"""One prompt of a user's file in this many is held out."""
_DRAWS = 2000
"""Consecutive draws without a new instance after which a family counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Exact:
    """The answer must equal `expected` after the extraction that `kind` names (llama3_plugins.rewards.verifiable)."""

    kind: Literal["text", "integer", "integers"]
    expected: str


@dataclass(frozen=True, slots=True)
class UnitTests:
    """The answer must define `entry`, and `entry(*calls[i])` must equal `expected[i]`, type included, for every i."""

    entry: str
    calls: tuple[tuple[Any, ...], ...]
    expected: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Custom:
    """Only the reward plugin called `reward` can verify the answer; `data` (JSON values) is what it needs for that."""

    reward: str
    data: Mapping[str, Any]


Check = Exact | UnitTests | Custom


@dataclass(frozen=True, slots=True)
class Task:
    """One question with a worked answer and the means to verify any other answer.

    `context` are the messages before the question (a system prompt, earlier turns), as role and content.
    """

    id: str
    family: str
    prompt: str
    reference: str
    check: Check
    context: tuple[Mapping[str, str], ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The dialog that asks the task."""
        return [*map(dict, self.context), {"role": "user", "content": self.prompt}]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able row; `from_json` is its inverse."""
        return asdict(self) | {"check": {"type": type(self.check).__name__} | asdict(self.check)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Task:
        """Raises DataError when the row is not a task."""
        try:
            check = dict(row["check"])
            build = _CHECKS[check.pop("type")]
            texts = (row["id"], row["family"], row["prompt"], row["reference"])
            return cls(*texts, build(**check), tuple(row.get("context", ())))
        except (KeyError, TypeError, ValueError) as error:
            raise NO_TASK(row.get("id", "task"), error=error) from None


def _unit_tests(entry: str, calls: Sequence[Sequence[Any]], expected: Sequence[Any]) -> UnitTests:
    return UnitTests(entry, tuple(map(tuple, calls)), tuple(expected))


_CHECKS: dict[str, Callable[..., Check]] = {"Exact": Exact, "UnitTests": _unit_tests, "Custom": Custom}


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of task. `draw` picks arguments; `templates` word them; `solve` answers; `check` verifies.

    `draw` returns a canonical instance: arguments whose order does not matter are sorted there.
    """

    name: str
    templates: tuple[str, ...]
    draw: Callable[[random.Random], Args]
    solve: Callable[..., str]
    check: Callable[..., Check]

    def task(self, args: Args, template: str) -> Task:
        """The task that asks for `args` in the words of `template`."""
        identity = f"{self.name}-{_digest(self.name, args)[:12]}"
        return Task(identity, self.name, template.format(*args), self.solve(*args), self.check(*args))


def exact(
    name: str,
    kind: Literal["text", "integer", "integers"],
    templates: Sequence[str],
    draw: Callable[[random.Random], Args],
    solve: Callable[..., str],
) -> Family:
    """A family whose answers are compared with the reference answer itself."""
    return Family(name, tuple(templates), draw, solve, lambda *args: Exact(kind, solve(*args)))


def split_of(family: str, args: Args) -> Split:
    """Which side an instance is on: a pure function of its content (blake2b)."""
    return "held_out" if int(_digest(family, args), 16) % HELD_OUT_ONE_IN == 0 else "train"


def split_of_prompt(prompt: str, one_in: int = HELD_OUT_ONE_IN) -> Split:
    """Which side a question without arguments is on: by its text, whatever its case and spacing."""
    return "held_out" if int(prompt_digest(prompt), 16) % one_in == 0 else "train"


def prompt_digest(prompt: str) -> str:
    """32 hex digits that name a question, whatever its case and spacing."""
    return _digest("prompt", (" ".join(prompt.casefold().split()),))


class NotEnoughTasks(DataError):  # noqa: N818 - the name says what is wrong
    """Fewer distinct tasks exist than were asked for: `available`."""

    def __init__(self, where: str, split: Split, available: int, asked: int) -> None:
        self.available = available
        super().__init__(NOT_ENOUGH.problem(where, available=available, split=split, asked=asked))


def generate(families: Sequence[Family], split: Split, count: int, seed: int) -> list[Task]:
    """`count` distinct tasks of `split`, the families taking turns; the same arguments give the same tasks.

    Families with few instances drop out of the turns when they are used up. Raises NotEnoughTasks when all are.
    """
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    tasks: list[Task] = []
    active = list(families)
    while len(tasks) < count:
        if not active:
            raise NotEnoughTasks("tasks", split, len(tasks), count)
        for family in list(active)[: count - len(tasks)]:
            task = _new_task(family, split, seen, rng)
            if task is None:
                active.remove(family)
            else:
                tasks.append(task)
    return tasks


def _new_task(family: Family, split: Split, seen: set[str], rng: random.Random) -> Task | None:
    for _ in range(_DRAWS):
        args = family.draw(rng)
        task = family.task(args, rng.choice(family.templates))
        if task.id not in seen and split_of(family.name, args) == split:
            seen.add(task.id)
            return task
    return None


def _digest(family: str, args: Args) -> str:
    return hashlib.blake2b(json.dumps([family, args]).encode(), digest_size=16).hexdigest()
