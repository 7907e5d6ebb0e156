"""What a reward plugin is, and how several are combined. Torch-free.

A reward scores answers in text. `None` (or NaN) means "not scorable": such an answer is never treated as a zero; it is
left out and counted, for each reward too.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llama3.config.slot_types import Slot
from llama3.errors import DataError, PluginError
from llama3.plugins.asking import asking
from llama3.plugins.registry import discover
from llama3.tasks import NotEnoughTasks, Split, Task

NO_REWARD = DataError.declare("L3-RWD-001", "there is no reward", fix="name one under post_training.rewards")
OTHER_NUMBER = PluginError.declare("L3-RWD-002", "returned {scores} scores for {answers} answers")
NO_PROMPTS = DataError.declare(
    "L3-RWD-003",
    "none of {rewards} has prompts of its own",
    fix="add a reward that has tasks under post_training.rewards",
)
TOO_LARGE = PluginError.declare(
    "L3-RWD-004", "returned the score {score}", why="training cannot compute with it", fix="return scores within 1e12"
)
FAILED = PluginError.declare("L3-RWD-008", "`{method}` failed", why="{error}", fix="mend the plugin")
NO_SCORES = PluginError.declare(
    "L3-RWD-009", "`score` returned {what}", fix="return a list with one number, or None, for each answer"
)
NO_TASKS = PluginError.declare("L3-RWD-010", "a {what} among its tasks", fix="return a list of llama3.rewards.Task")
NOT_SCORABLE = DataError.declare(
    "L3-RWD-005",
    "none of {answers} answers can be scored",
    why="a reward answers None (or NaN) for tasks that are not its own",
    fix="name the reward that the tasks come from under post_training.rewards",
)

PASS = 1.0
"""The score from which an answer counts as verified: "fully right"."""
_LARGEST = 1e12
"""Of a score: training squares them in single precision."""
_TRIED = 2
"""Tasks on which rewards are tried."""
Example = Mapping[str, Any]
"""What is known about a prompt beside its text: a JSON row, such as `Task.to_json()`."""


class Reward(Protocol):
    """Built by the plugins of the family `rewards`.

    Scores may come as any numbers in a row: a list, an array, a tensor. A class attribute `verifies` says whether they
    tell right from wrong, or only rank answers (a reward model, "the shorter the better"); one that says nothing does
    where it has tasks of its own. Those that verify alone decide what passed.
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


def build_rewards(slots: Sequence[Slot], device: str = "auto") -> dict[str, Reward]:
    """The rewards named in a config, by name; the second `jsonl_tasks` is called `jsonl_tasks-2`.

    device: where those compute whose options have a `device`, unless the config names one
    """
    rewards: dict[str, Reward] = {}
    count: Counter[str] = Counter()
    for slot in slots:
        count[slot.name] += 1
        name = slot.name if count[slot.name] == 1 else f"{slot.name}-{count[slot.name]}"
        model = discover().options_model("rewards", slot.name)
        placed = {"device": device} if model is not None and "device" in model.model_fields else {}
        rewards[name] = discover().build("rewards", slot.name, {**placed, **slot.options})
    return rewards


class CombinedReward:
    """The mean of the rewards that could score an answer."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        if not rewards:
            raise NO_REWARD("rewards")
        self.rewards = dict(rewards)
        self.asked = 0
        """Answers that it was asked of."""
        self.no_opinion: Counter[str] = Counter()
        """How many of them a reward could not score."""

    def score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Ask every reward. Raises PluginError where one fails, or does not return a score for each answer."""
        parts: dict[str, list[float]] = {}
        for name, reward in self.rewards.items():
            parts[name] = _asked(f"rewards.{name}", reward, prompts, answers, examples)
            self.no_opinion[name] += sum(map(math.isnan, parts[name]))
        self.asked += len(answers)
        verified = {name: column for name, column in parts.items() if verifies(self.rewards[name])}
        total, verdict = _means(parts), _means(verified or parts)
        return Scores(total, parts, [mean >= PASS for mean in verdict])

    @property
    def ranks_only(self) -> bool:
        """Whether no reward tells right from wrong."""
        return not any(map(verifies, self.rewards.values()))

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """At most `count` tasks of all rewards that have some, in turn; one that runs out leaves its turns to others.

        Raises DataError when no reward has tasks, NotEnoughTasks when none has one of this split, and PluginError where
        one fails.
        """
        sources = {name: reward for name, reward in self.rewards.items() if isinstance(reward, TaskReward)}
        if not sources:
            raise NO_PROMPTS("rewards", rewards=sorted(self.rewards))
        rows = [_at_most(f"rewards.{name}", source, split, count, seed) for name, source in sources.items()]
        turns = (task for turn in itertools.zip_longest(*rows) for task in turn if task is not None)
        tasks = list(itertools.islice(turns, count))
        if not tasks:
            raise NotEnoughTasks("rewards", split, 0, count)
        return tasks


def verifies(reward: Reward) -> bool:
    """Whether a reward tells right from wrong."""
    return bool(getattr(reward, "verifies", isinstance(reward, TaskReward)))


def try_rewards(slots: Sequence[Slot], device: str = "auto", *, must_ask: bool = True) -> None:
    """Have the rewards score a few answers to their own tasks, before work that they could end starts.

    Raises PluginError as `CombinedReward.score` does, and DataError where none of the answers can be scored, or none of
    the rewards has tasks though they `must_ask`.
    """
    reward = CombinedReward(build_rewards(slots, device))
    if not must_ask and not any(isinstance(one, TaskReward) for one in reward.rewards.values()):
        return
    tasks = reward.tasks("train", _TRIED, seed=0)
    asked = [(task, answer) for task in tasks for answer in (task.reference, "", "An answer.")]
    rows = [task.to_json() for task, _ in asked]
    require_scorable(reward.score([task.prompt for task, _ in asked], [answer for _, answer in asked], rows))


def _asked(
    where: str, reward: Reward, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Example]
) -> list[float]:
    """The scores of one reward, NaN for None; what it does to its lists is not seen. Raises PluginError."""
    with asking(where, "score", lambda error: FAILED(where, method="score", error=error)):
        found: Any = reward.score(list(prompts), list(answers), [dict(example) for example in examples])
        if hasattr(found, "tolist"):
            found = found.tolist()
        if found is None or isinstance(found, str | bytes | Mapping | set) or not isinstance(found, Iterable):
            raise NO_SCORES(where, what="nothing" if found is None else f"a {type(found).__name__}")
        scores = list(itertools.islice(found, len(answers) + 1))
    if len(scores) != len(answers):
        more = "more than " if len(scores) > len(answers) else ""
        raise OTHER_NUMBER(where, scores=f"{more}{min(len(scores), len(answers))}", answers=len(answers))
    return [_number(where, score) for score in scores]


def _number(where: str, score: Any) -> float:
    """A score that training can compute with, or NaN for None. Raises PluginError."""
    if score is None:
        return math.nan
    if not isinstance(score, numbers.Real) and getattr(score, "ndim", None) == 0:
        score = score.item()  # an array or a tensor of one number
    if not isinstance(score, numbers.Real):
        raise NO_SCORES(where, what=f"the score {score!r:.40}")
    try:
        value = float(score)
    except OverflowError:
        value = math.inf
    if abs(value) > _LARGEST:
        raise TOO_LARGE(where, score=f"{value:g}")
    return value


def _at_most(where: str, source: TaskReward, split: Split, count: int, seed: int) -> list[Task]:
    """`count` tasks, or all there are. Raises PluginError."""
    try:
        with asking(where, "tasks", lambda error: FAILED(where, method="tasks", error=error)):
            found: Any = source.tasks(split, count, seed)
            tasks = list(itertools.islice(found, count))
    except NotEnoughTasks as error:
        return _at_most(where, source, split, error.available, seed) if 0 < error.available < count else []
    if odd := [type(task).__name__ for task in tasks if not isinstance(task, Task)]:
        raise NO_TASKS(where, what=odd[0])
    return tasks


def _means(parts: Mapping[str, Sequence[float]]) -> list[float]:
    """Over the rewards, answer by answer."""
    return [_mean_of_known(column) for column in zip(*parts.values(), strict=True)]


def _mean_of_known(scores: Sequence[float]) -> float:
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
