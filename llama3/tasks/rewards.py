"""What a reward plugin is, and how several are combined. Torch-free.

A reward scores answers in text. `None` (or NaN) means "not scorable": such an answer is never treated as a zero; it is
left out and counted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llama3.config.schema import Slot
from llama3.errors import DataError, PluginError
from llama3.plugins.registry import discover
from llama3.tasks import NotEnoughTasks, Split, Task

NO_REWARD = DataError.declare("L3-RWD-001", "there is no reward", fix="name one under post_training.rewards")
OTHER_NUMBER = PluginError.declare("L3-RWD-002", "returned {scores} scores for {answers} answers")
NO_PROMPTS = DataError.declare(
    "L3-RWD-003",
    "none of {rewards} has prompts of its own",
    fix="add a reward that has tasks under post_training.rewards",
)
INFINITE = PluginError.declare("L3-RWD-004", "returned the score {score}")
NOT_SCORABLE = DataError.declare(
    "L3-RWD-005",
    "none of {answers} answers can be scored",
    why="a reward answers None (or NaN) for tasks that are not its own",
    fix="name the reward that the tasks come from under post_training.rewards",
)

PASS = 1.0
"""The score from which an answer counts as verified: "fully right"."""
Example = Mapping[str, Any]
"""What is known about a prompt beside its text: a JSON row, such as `Task.to_json()`."""


class Reward(Protocol):
    """Built by the plugins of the family `rewards`.

    A class attribute `verifies = False` says that its scores rank answers but do not tell right from wrong (a reward
    model). Where other rewards do, they alone decide what passed.
    """

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        """One score per answer, higher is better, 1.0 meaning "fully right" where that exists; None: not scorable.

        `prompts[i]`, `answers[i]` and `examples[i]` belong together; answers are decoded text without control tokens.
        """


@runtime_checkable
class TaskReward(Reward, Protocol):
    """A reward that also has prompts of its own, with worked answers, in disjoint splits.

    It scores its own tasks only, and answers None to others: a config may name several.
    """

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """`count` distinct tasks; the same arguments give the same tasks. Raises NotEnoughTasks."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of many answers: the total (NaN = not scorable), what each reward said (NaN likewise), and which answers
    passed."""

    total: list[float]
    parts: dict[str, list[float]]
    passed: list[bool]

    @property
    def not_scorable(self) -> int:
        """How many answers no reward could score."""
        return sum(map(math.isnan, self.total))


def require_scorable(scores: Scores) -> None:
    """Raises DataError where no answer could be scored: there is nothing to choose by, whatever follows."""
    if scores.total and scores.not_scorable == len(scores.total):
        raise NOT_SCORABLE(f"rewards {', '.join(scores.parts)}", answers=len(scores.total))


def build_rewards(slots: Sequence[Slot]) -> dict[str, Reward]:
    """The rewards named in a config, by name; the second `jsonl_tasks` is called `jsonl_tasks-2`."""
    rewards: dict[str, Reward] = {}
    count: Counter[str] = Counter()
    for slot in slots:
        count[slot.name] += 1
        name = slot.name if count[slot.name] == 1 else f"{slot.name}-{count[slot.name]}"
        rewards[name] = discover().build("rewards", slot.name, slot.options)
    return rewards


class CombinedReward:
    """The mean of the rewards that could score an answer."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        if not rewards:
            raise NO_REWARD("rewards")
        self.rewards = dict(rewards)

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Ask every reward. Raises PluginError when one answers with the wrong number of scores or an infinite one."""
        parts: dict[str, list[float]] = {}
        for name, reward in self.rewards.items():
            scores = reward.score(prompts, answers, examples)
            if len(scores) != len(answers):
                raise OTHER_NUMBER(f"rewards.{name}", scores=len(scores), answers=len(answers))
            parts[name] = [_checked(name, score) for score in scores]
        verified = {name: column for name, column in parts.items() if getattr(self.rewards[name], "verifies", True)}
        total, verdict = _means(parts), _means(verified or parts)
        return Scores(total, parts, [mean >= PASS for mean in verdict])

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """At most `count` tasks of all rewards that have some, in turn; one that runs out leaves its turns to others.

        Raises DataError when no reward has tasks, and NotEnoughTasks when none has one of this split.
        """
        sources = [reward for reward in self.rewards.values() if isinstance(reward, TaskReward)]
        if not sources:
            raise NO_PROMPTS("rewards", rewards=sorted(self.rewards))
        rows = [_at_most(source, split, count, seed) for source in sources]
        turns = (task for turn in itertools.zip_longest(*rows) for task in turn if task is not None)
        tasks = list(itertools.islice(turns, count))
        if not tasks:
            raise NotEnoughTasks("rewards", split, 0, count)
        return tasks


def _checked(name: str, score: float | None) -> float:
    """A finite score, or NaN for None. Raises PluginError for an infinite one: no mean survives it."""
    value = math.nan if score is None else float(score)
    if math.isinf(value):
        raise INFINITE(f"rewards.{name}", score=value)
    return value


def _at_most(source: TaskReward, split: Split, count: int, seed: int) -> list[Task]:
    """`count` tasks, or all there are."""
    try:
        return source.tasks(split, count, seed)
    except NotEnoughTasks as error:
        return source.tasks(split, error.available, seed) if error.available else []


def _means(parts: Mapping[str, Sequence[float]]) -> list[float]:
    """Over the rewards, answer by answer."""
    return [_mean_of_known(column) for column in zip(*parts.values(), strict=True)]


def _mean_of_known(scores: Sequence[float]) -> float:
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
