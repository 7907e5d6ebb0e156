"""The verifiable reward's extraction rules, and how rewards are combined."""

from __future__ import annotations

import math

import pytest

from llama3.config.schema import Slot
from llama3.errors import DataError, PluginError
from llama3.tasks import Custom, Exact, NotEnoughTasks, Task, UnitTests
from llama3.tasks.rewards import CombinedReward, build_rewards
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
