"""Tasks of the package reasoning-gym, scored by its own scorers (extra `[reasoning-gym]`).

    rewards: [{name: reasoning_gym, families: [gcd, {name: chain_sum, max_terms: 3, weight: 2}]}]

**Splits.** Training and held-out tasks come from disjoint generator seeds, and the hash of the question decides on
which side it may stand, so that no seed brings a held-out question into training.

**Score.** 1.0 when what llama3.tasks.extraction takes from the answer equals the reference, or the family's own
scorer gives full marks for it; else 0.0, or the scorer's partial credit with `partial: true`. Families whose scorers
do more than compare are refused, see reasoning_gym_families.py.
"""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from llama3.errors import ConfigError, DataError, did_you_mean
from llama3.rewards import Custom, Example, NotEnoughTasks, Split, Task, extract, prompt_digest, split_of_prompt
from llama3_plugins.rewards.reasoning_gym_families import COMPARED, EXACT, REFUSED

OTHER_TASK = DataError.declare(
    "L3-RGY-001",
    "{id}: this task is made differently here",
    why="another version of reasoning-gym made it",
    fix="install that version, or make the tasks again",
)
REFUSED_OPTIONS = ConfigError.declare("L3-RGY-002", "reasoning-gym refuses these options", why="{error}")

NAME = "reasoning_gym"
BLOCK = 32
"""Tasks made by one generator object, from as many consecutive seeds."""
_SEEDS: dict[Split, tuple[int, int]] = {"train": (0, 1 << 30), "held_out": (1 << 30, 1 << 31)}
_DRAWS = 500
"""Consecutive draws without a new question after which a family counts as exhausted."""


class FamilySlot(BaseModel):
    """A generator and its own options beside `name`. `gcd` is short for `{name: gcd}`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="name of the generator in reasoning-gym")
    weight: float = Field(1.0, gt=0, description="share of the tasks, relative to the other families")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = COMPARED | EXACT
        if name in REFUSED:
            raise ValueError(f"{name} cannot be used: {REFUSED[name]}")
        if name not in known:
            raise ValueError(did_you_mean(name, known) or f"known: {', '.join(sorted(known))}")
        return name

    @property
    def options(self) -> dict[str, Any]:
        """The generator's own options."""
        return dict(self.model_extra or {})


class ReasoningGymOptions(BaseModel):
    """Which tasks, and how they are asked and scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    families: list[
        Annotated[FamilySlot, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)]
    ] = Field(min_length=1, description="generators; options of each stand beside its name")
    instruction: str = Field("Give only the final answer.", description="line added to every question")
    partial: bool = Field(False, description="give the scorer's partial credit, 0 to 1")

    @field_validator("families")
    @classmethod
    def _buildable(cls, families: list[FamilySlot]) -> list[FamilySlot]:
        """No family twice, and no option that is ours to choose."""
        names = [family.name for family in families]
        if len(set(names)) < len(names):
            raise ValueError(f"named twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
        for family in families:
            if taken := family.options.keys() & {"seed", "size"}:
                raise ValueError(f"{family.name}: {', '.join(sorted(taken))} cannot be set")
        return families


@dataclass(frozen=True, slots=True)
class Entry:
    """A generated task: `entry` is what the package's scorer wants to see again."""

    number: int
    entry: Mapping[str, Any]

    @property
    def question(self) -> str:
        return str(self.entry["question"])

    @property
    def reference(self) -> str:
        return str(self.entry["answer"])


class ReasoningGym:
    """A `TaskReward` (llama3.tasks.rewards)."""

    def __init__(self, options: ReasoningGymOptions) -> None:
        self.options = options
        for family in options.families:  # the generator's own options are wrong now or never
            _block(family.name, _key(family.options), 0)

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """`count` distinct tasks, the families taking turns by weight. Raises NotEnoughTasks."""
        families = self.options.families
        streams = [self._stream(family, split, seed) for family in families]
        taken = dict.fromkeys(range(len(families)), 0)
        tasks: list[Task] = []
        while len(tasks) < count:
            if not taken:
                raise NotEnoughTasks(f"rewards.{NAME}", split, len(tasks), count)
            turn = min(taken, key=lambda i: (taken[i] + 1) / families[i].weight)
            task = next(streams[turn], None)
            if task is None:
                del taken[turn]
                continue
            taken[turn] += 1
            tasks.append(task)
        return tasks

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """One score per answer; None for other rewards' tasks. Raises DataError where the installed package no longer
        makes the task that was asked."""
        return [self._score(answer, example) for answer, example in zip(answers, examples, strict=True)]

    def _score(self, answer: str, example: Example) -> float | None:
        check = example.get("check", {})
        if check.get("reward") != NAME:
            return None
        data = check["data"]
        family, reference = data["family"], example["reference"]
        extracted = extract(answer, reference)
        if extracted == reference.strip():
            return 1.0
        if family in EXACT or not extracted:
            return 0.0
        dataset, entry = _entry(family, _key(data["options"]), data["seed"])
        if entry.reference != reference or not example["prompt"].startswith(entry.question):
            raise OTHER_TASK(f"rewards.{NAME}", id=example["id"])
        try:
            score = float(dataset.score_answer(extracted, copy.deepcopy(entry.entry)))
        except Exception:  # several scorers raise for an answer that they cannot read
            return 0.0
        if score >= 1.0:
            return 1.0
        return max(score, 0.0) if self.options.partial else 0.0

    def _stream(self, family: FamilySlot, split: Split, seed: int) -> Iterator[Task]:
        """The distinct tasks of one family; ends when it seems exhausted."""
        seen: set[str] = set()
        fruitless = 0
        for entry in _entries(family.name, _key(family.options), split, seed):
            digest = prompt_digest(entry.question)
            if digest in seen or split_of_prompt(entry.question) != split:
                fruitless += 1
                if fruitless == _DRAWS:
                    return
                continue
            seen.add(digest)
            fruitless = 0
            yield self._task(family, entry, digest)

    def _task(self, family: FamilySlot, entry: Entry, digest: str) -> Task:
        prompt = f"{entry.question}\n{self.options.instruction}" if self.options.instruction else entry.question
        data = {"family": family.name, "options": family.options, "seed": entry.number}
        name = f"{NAME}.{family.name}"
        return Task(f"{name}-{digest[:12]}", name, prompt, entry.reference, Custom(NAME, data))


def _key(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _entries(family: str, options: str, split: Split, seed: int) -> Iterator[Entry]:
    """Entries of one split, from random blocks of its seeds, without end."""
    low, high = _SEEDS[split]
    rng = random.Random(f"{family}/{split}/{seed}")
    while True:
        first = rng.randrange(low, high, BLOCK)
        for number in range(first, first + BLOCK):
            yield _entry(family, options, number)[1]


@functools.lru_cache(maxsize=1 << 14)
def _entry(family: str, options: str, number: int) -> tuple[Any, Entry]:
    """The generator and its entry of this number."""
    dataset = _block(family, options, number - number % BLOCK)
    return dataset, Entry(number, dataset[number % BLOCK])


@functools.lru_cache(maxsize=256)
def _block(family: str, options: str, first: int) -> Any:
    """The package's generator of the tasks `first` to `first + BLOCK - 1`. Raises ConfigError for wrong options."""
    import reasoning_gym  # three seconds: not before a task is wanted

    try:
        return reasoning_gym.create_dataset(family, seed=first, size=BLOCK, **json.loads(options))
    except (TypeError, ValueError, AssertionError) as error:
        raise REFUSED_OPTIONS(f"rewards.{NAME}.{family}", error=error) from None
