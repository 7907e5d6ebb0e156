"""Conformance of rewards: a score or None for each answer, which depends on nothing but that answer. Torch-free."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llama3.plugins.specs import RewardSpec
from llama3.tasks import NotEnoughTasks, Split, Task
from llama3.tasks.rewards import TaskReward
from llama3.testing.conformance import Conformance

ANSWERS = ("4", "The answer is 4.", "", " ", "no idea", "\u0000\ufffd\u202e", "\U0001f999" * 20, "word " * 500)
"""Right, right in a sentence, empty, blank, wrong, odd characters, outside the basic plane, long."""
TASKS = 6
SPLITS: tuple[Split, ...] = ("train", "held_out")


class RewardConformance(Conformance):
    """Checks of a reward on toy prompts, or where it has some on tasks of its own.

    A reward that reads columns of the user's rows names some rows under `examples`: with none that it can score there
    is nothing to check.
    """

    family = "rewards"
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"prompt": "What is 2 + 2?", "answer": "4"},
        {"prompt": "Say four in digits.", "answer": "4"},
    )
    """Rows as `post_training.data` holds them: a prompt and any columns."""

    def test_every_answer_gets_a_number_or_none(self) -> None:
        for prompts, answers, examples in (self._toys(), self._worked(), self._guessed()):
            self._score(prompts, answers, examples)

    def test_something_can_be_scored(self) -> None:
        scores = [*self._score(*self._toys()), *self._score(*self._worked())]
        assert any(_known(score) is not None for score in scores), (
            "no answer got a score: neither the toy prompts nor tasks of its own; name rows under `examples`"
        )

    def test_no_answers_get_no_scores(self) -> None:
        assert self._score([], [], []) == []

    def test_a_score_does_not_depend_on_the_other_answers(self) -> None:
        """Answers are scored in groups whose cut follows memory and ranks."""
        for rows in (self._toys(), self._worked()):
            together = self._score(*rows)
            alone = [self._score([p], [a], [e])[0] for p, a, e in zip(*rows, strict=True)]
            assert all(map(_same, together, alone)), f"together {together}, one by one {alone}"

    def test_what_it_is_given_stays_as_it_is(self) -> None:
        for rows in (self._toys(), self._worked()):
            before = copy.deepcopy(rows)
            self._score(*rows)
            assert rows == before, "prompts, answers or examples were changed"

    def test_the_spec_does_not_hide_its_tasks(self) -> None:
        """A run that has no other prompts is refused when no spec says that there are some."""
        spec = self.spec
        assert isinstance(spec, RewardSpec)
        assert spec.has_tasks or not isinstance(self.build(), TaskReward), (
            "it has tasks, and its spec says has_tasks=False"
        )

    def test_tasks_are_distinct_and_the_same_again(self) -> None:
        for split in SPLITS:
            tasks = self._tasks(split)
            assert len({task.id for task in tasks}) == len(tasks), f"{split}: two tasks have one id"
            assert self._tasks(split) == tasks, f"{split}: the same arguments give other tasks"
            assert [Task.from_json(json.loads(json.dumps(task.to_json()))) for task in tasks] == tasks

    def test_no_task_is_both_trained_on_and_held_out(self) -> None:
        train, held_out = ({task.prompt for task in self._tasks(split)} for split in SPLITS)
        assert not train & held_out

    def test_the_worked_answer_is_the_best(self) -> None:
        right, wrong = self._score(*self._worked()), self._score(*self._guessed())
        for task, good, bad in zip(self._all_tasks(), map(_known, right), map(_known, wrong), strict=True):
            assert good is not None, f"{task.id}: its own task cannot be scored"
            assert bad is None or good >= bad, f"{task.id}: the worked answer scores {good}, another {bad}"

    # -- helpers ---------------------------------------------------------------------------------

    def _toys(self) -> tuple[list[str], list[str], list[dict[str, Any]]]:
        rows = [(copy.deepcopy(example), answer) for example in self._examples() for answer in ANSWERS]
        return [str(row.get("prompt", "")) for row, _ in rows], [answer for _, answer in rows], [row for row, _ in rows]

    def _examples(self) -> list[dict[str, Any]]:
        """The rows that a subclass names; those of its own tasks otherwise, and toys for a reward that has none."""
        named = self.examples is not RewardConformance.examples
        own = [] if named else [task.to_json() for task in self._all_tasks()]
        return own or [dict(example) for example in self.examples]

    def _worked(self) -> tuple[list[str], list[str], list[dict[str, Any]]]:
        tasks = self._all_tasks()
        return (
            [task.prompt for task in tasks],
            [task.reference for task in tasks],
            [task.to_json() for task in tasks],
        )

    def _guessed(self) -> tuple[list[str], list[str], list[dict[str, Any]]]:
        prompts, answers, examples = self._worked()
        return prompts, ["no idea"] * len(answers), examples

    def _all_tasks(self) -> list[Task]:
        return [task for split in SPLITS for task in self._tasks(split)]

    def _tasks(self, split: Split) -> list[Task]:
        """Some tasks, fewer where there are not so many."""
        reward = self.build()
        if not isinstance(reward, TaskReward):
            return []
        try:
            return reward.tasks(split, TASKS, 0)
        except NotEnoughTasks as error:
            return reward.tasks(split, error.available, 0) if error.available else []

    def _score(self, prompts: Sequence[str], answers: Sequence[str], examples: Sequence[Any]) -> list[float | None]:
        scores = self.build().score(prompts, answers, examples)
        assert isinstance(scores, list | tuple), f"score returned {type(scores).__name__}, not a list"
        assert len(scores) == len(answers), f"score returned {len(scores)} scores for {len(answers)} answers"
        for score in scores:
            assert score is None or isinstance(score, int | float), f"{score!r} is neither a number nor None"
            is_nan = score is not None and score != score  # math.isnan refuses very large integers
            assert score is None or is_nan or abs(score) < 1e30, f"the score {score} is too large"
        return list(scores)


def _known(score: float | None) -> float | None:
    """The score, or None for NaN, which says the same."""
    return None if score is None or math.isnan(score) else score


def _same(one: float | None, other: float | None) -> bool:
    first, second = _known(one), _known(other)
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-4, abs_tol=1e-5)
