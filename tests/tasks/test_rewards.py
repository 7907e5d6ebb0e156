"""The verifiable reward's extraction rules, and how rewards are combined."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from llama3.config.slot_types import Slot
from llama3.errors import DataError, PluginError
from llama3.tasks import Custom, Exact, NotEnoughTasks, Task, UnitTests, rewards
from llama3.tasks.rewards import CombinedReward, build_rewards, try_rewards
from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions

VERIFIABLE = Verifiable(VerifiableOptions(cpu_seconds=0.3))


def score(check, answer: str) -> float | None:
    return VERIFIABLE.score(["?"], [answer], [Task("id", "family", "?", "-", check).to_json()])[0]


@pytest.mark.parametrize(
    ("kind", "expected", "answer", "passes"),
    [
        ("text", "red blue", " red blue\nand more", True),
        ("text", "red blue", "red blue.", True),
        ("text", "red blue", "Red blue", False),
        ("text", "red", "", False),
        ("text", "red", "the answer is red", False),
        ("integer", "7", "7.", True),
        ("integer", "7", "+7", True),
        ("integer", "7", "07", True),
        ("integer", "7", "7.0", False),
        ("integer", "7", "It is 7", False),
        ("integer", "7", "7" * 5000, False),
        ("integers", "[1, 2]", "[1,2]", True),
        ("integers", "[1, 2]", "[2, 1]", False),
        ("integers", "[1, 2]", "1, 2", False),
        ("integers", "[1, 2]", "[1, 2", False),
        ("integers", "[1, 2]", "[]", False),
    ],
)
def test_exact_match_after_extraction(kind, expected, answer, passes):
    assert score(Exact(kind, expected), answer) == float(passes)


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("def f(x):\n    return x > 1", True),
        ("Sure:\n```python\ndef f(x):\n    return x > 1\n```\nDone.", True),
        ("```\nf = lambda x: x > 1", True),
        ("def f(x):\n    return int(x > 1)", False),
        ("def f(x):\n    return float(x > 1)", False),
        ("def g(x):\n    return x > 1", False),
        ("I would compare x with 1.", False),
    ],
)
def test_unit_tests_compare_value_and_type(answer, passes):
    assert score(UnitTests("f", ((1,), (2,)), (False, True)), answer) == float(passes)


def test_an_example_without_a_check_cannot_be_scored():
    assert VERIFIABLE.score(["?"], ["7"], [{"id": "free text"}]) == [None]


class Fixed:
    """A reward that says what it was told to say."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, prompts, answers, examples):
        return self.scores


def test_rewards_are_averaged_over_those_that_could_score():
    combined = CombinedReward({"a": Fixed([1.0, None, None, 0.0]), "b": Fixed([0.0, 0.5, math.nan, None])})
    scores = combined.score([""] * 4, [""] * 4, [{}] * 4)
    assert scores.total[:2] == [0.5, 0.5]
    assert math.isnan(scores.total[2])
    assert scores.total[3] == 0.0
    assert scores.not_scorable == 1
    assert math.isnan(scores.parts["a"][1])


def test_a_reward_with_the_wrong_number_of_scores_is_named():
    with pytest.raises(PluginError, match=r"rewards\.short.*1 scores for 2 answers"):
        CombinedReward({"short": Fixed([1.0])}).score(["", ""], ["", ""], [{}, {}])


def test_an_infinite_score_is_named():
    with pytest.raises(PluginError, match=r"rewards\.wild.*inf"):
        CombinedReward({"wild": Fixed([math.inf])}).score([""], [""], [{}])


class Few(Fixed):
    """A reward with a few tasks."""

    def __init__(self, name, available):
        super().__init__([])
        self.name, self.available = name, available

    def tasks(self, split, count, seed):
        if count > self.available:
            raise NotEnoughTasks(self.name, split, self.available, count)
        return [
            Task(f"{self.name}{i}", self.name, f"{self.name}{i}?", "-", Custom(self.name, {})) for i in range(count)
        ]


def test_rewards_take_turns_and_leave_them_when_they_run_out():
    combined = CombinedReward({"a": Few("a", 9), "fixed": Fixed([]), "b": Few("b", 2), "none": Few("none", 0)})
    assert [task.id for task in combined.tasks("train", 7, seed=1)] == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]
    assert len(combined.tasks("train", 12, seed=1)) == 11
    with pytest.raises(NotEnoughTasks, match="only 0 distinct train tasks exist, 12"):
        CombinedReward({"none": Few("none", 0)}).tasks("train", 12, seed=1)


def test_two_rewards_of_one_name_are_both_built():
    assert list(build_rewards([Slot(name="verifiable")] * 2)) == ["verifiable", "verifiable-2"]


def test_prompts_come_from_the_rewards_that_have_some():
    combined = CombinedReward({"a": Fixed([]), "verifiable": VERIFIABLE})
    assert combined.tasks("train", 3, seed=1) == VERIFIABLE.tasks("train", 3, seed=1)
    with pytest.raises(DataError, match="none of"):
        CombinedReward({"a": Fixed([])}).tasks("train", 3, seed=1)
    with pytest.raises(DataError, match="no reward"):
        CombinedReward({})


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "returned nothing"),
        (1.0, "returned a float"),
        ("11", "returned a str"),
        ({0: 1.0, 1: 0.0}, "returned a dict"),
        ({0.0, 1.0}, "returned a set"),
        ([1.0, 2.0, 3.0], "more than 2 scores for 2 answers"),
        (["1.0", "1.0"], "the score '1.0'"),
        ([(1.0, 2.0)] * 2, "the score"),
        ([1e300, -1e300], "1e\\+300"),
        ([10**400, 1], "inf"),
        (iter(itertools.count()), "more than 2 scores"),
    ],
)
def test_what_are_no_scores_is_named(found, why):
    with pytest.raises(PluginError, match=rf"rewards\.odd.*{why}"):
        CombinedReward({"odd": Fixed(found)}).score(["", ""], ["", ""], [{}, {}])


@pytest.mark.parametrize(
    "found",
    [
        (1, 0.5),
        [True, 0.5],
        np.array([1, 0.5]),
        torch.tensor([1, 0.5]),
        [torch.tensor(1.0), np.float32(0.5)],
        (x for x in (1.0, 0.5)),
    ],
)
def test_scores_may_come_as_any_numbers(found):
    scores = CombinedReward({"odd": Fixed(found)}).score(["", ""], ["", ""], [{}, {}])
    assert scores.total == [1.0, 0.5]
    assert all(type(total) is float for total in scores.total)


class Broken(Fixed):
    def score(self, prompts, answers, examples):
        return [example["no such column"] for example in examples]


def test_a_reward_that_fails_is_named():
    with pytest.raises(PluginError, match=r"rewards\.mine.*KeyError: 'no such column'"):
        CombinedReward({"mine": Broken([])}).score([""], [""], [{}])


class Asks(Fixed):
    """A reward whose tasks are what a function gives."""

    def __init__(self, found):
        super().__init__([])
        self.found = found

    def tasks(self, split, count, seed):
        return self.found()


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (lambda: 1 + "a", "TypeError: unsupported operand"),
        (lambda: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda: iter([{}["x"]]), "KeyError: 'x'"),
        (lambda: [None], "a NoneType among its tasks"),
    ],
)
def test_a_reward_whose_tasks_fail_is_named(found, why):
    with pytest.raises(PluginError, match=rf"rewards\.mine.*{why}") as caught:
        CombinedReward({"few": Few("few", 9), "mine": Asks(found)}).tasks("train", 4, seed=0)
    assert caught.value.exit_code == 4


def test_rewards_are_tried_before_work_starts(monkeypatch):
    monkeypatch.setattr(rewards, "build_rewards", lambda slots, device: {"verifiable": VERIFIABLE, "mine": slots[0]})
    try_rewards([Fixed([0.5] * 6)])
    with pytest.raises(PluginError, match=r"rewards\.mine"):
        try_rewards([Broken([])])
    monkeypatch.setattr(rewards, "build_rewards", lambda slots, device: {"brief": slots[0]})
    try_rewards([Fixed([])], must_ask=False)
    with pytest.raises(DataError, match="none of"):
        try_rewards([Fixed([])])
    monkeypatch.setattr(rewards, "build_rewards", lambda slots, device: {"few": slots[0]})
    silent = Few("few", 5)
    silent.scores = [None] * 6
    with pytest.raises(DataError, match="none of 6 answers"):
        try_rewards([silent])


def test_a_reward_without_tasks_ranks_and_one_with_tasks_decides():
    """README's own plugin beside the built-in one: an answer is right when the built-in says so, however long."""
    tasks = Few("a", 9)
    tasks.scores = [1.0, 0.0]
    combined = CombinedReward({"a": tasks, "brief": Fixed([0.1, 0.9])})
    assert combined.score(["", ""], ["", ""], [{}, {}]).passed == [True, False]
    assert not combined.ranks_only
    assert CombinedReward({"brief": Fixed([0.1])}).ranks_only
