"""Recipes for mathematics and facts, asked of models that answer by rule: what is kept is right, and what search is
worth."""

from __future__ import annotations

import random
import re

import pytest
from skilled import made_by, made_in

from llama3.capabilities import Reply, Task
from llama3.tasks import Custom
from llama3.testing.capabilities import ToyShop


def numbers(text: str) -> tuple[int, int]:
    a, b = re.search(r"What is (\d+) \+ (\d+)\?", text).groups()
    return int(a), int(b)


# Chains of thought ----------------------------------------------------------------------------------------------------


def adder(dialog) -> str:
    """By the first number: 0 and 1 right, 2 right by a wrong step, 3 and 4 wrong; a judge who sees wrong steps."""
    said = dialog[-1]["content"]
    a, b = numbers(said)
    if "Check every step" in said:
        return "no" if "magic" in said else "Each step holds.\nyes"
    by = " by magic" if a % 5 == 2 else ""
    return f"{a} and {b} together{by}.\nAnswer: {a + b + (a % 5 > 2)}"


def precision_and_recall(made) -> tuple[float, float]:
    sound = [one for one in made if numbers(one.messages[0]["content"])[0] % 5 < 2]
    kept = [one for one in made if one.kept]
    return sum(one in sound for one in kept) / len(kept), sum(one in kept for one in sound) / len(sound)


def test_the_filter_keeps_what_is_sound_and_all_of_it():
    """Right results alone let chains with a wrong step through; with the model's own verification none is left."""
    assert precision_and_recall(made_by("math_steps", adder, 40)) == (1.0, 1.0)
    by_result = precision_and_recall(made_by("math_steps", adder, 40, verify=False))
    assert by_result == (pytest.approx(2 / 3), 1.0)


@pytest.mark.parametrize("judge", ["", "Some say yes, some say no.", "maybe", "🦙"])
def test_a_judge_that_answers_garbage_lets_nothing_through(judge):
    made = made_by("math_steps", lambda dialog: judge if "Check every" in dialog[-1]["content"] else adder(dialog))
    assert {one.reason for one in made} == {"a_step_is_wrong", "wrong_result"}


# Interleaved Python ---------------------------------------------------------------------------------------------------


def programmer(dialog) -> str:
    """0 computes in two cells, 1 fails, 2 does not compute, 3 reads its output wrongly, 4 never ends."""
    a, b = numbers(dialog[1]["content"])
    seen = [turn["content"] for turn in dialog if turn["role"] == "ipython"]
    if a % 5 == 2:
        return f"Answer: {a + b}"
    if a % 5 == 4:
        return "```python\nprint(1)\n```"
    if not seen:
        return f"First:\n```python\nx = {a}\nprint({'1 / 0' if a % 5 == 1 else 'x'})\n```\nIt prints 17."
    if len(seen) == 1:
        return f"Then:\n```python\nprint(x + {b})\n```"
    return f"Answer: {int(seen[-1]) + (a % 5 == 3)}"


def test_what_python_says_is_shown_and_chains_that_fail_are_rejected():
    made = made_by("math_python", programmer, 5, samples=1)
    reasons = ["ran_and_right", "a_program_fails", "nothing_computed", "wrong_result", "too_many_programs"]
    assert [one.reason for one in made] == reasons
    turns = made[0].messages
    assert [turn["role"] for turn in turns] == [
        "system", "user", "assistant", "ipython", "assistant", "ipython", "assistant",
    ]  # fmt: skip
    assert "17" not in turns[2]["content"], "what the model guesses of the output is cut off"
    assert turns[3]["content"] == "0"
    assert [one.kept for one in made] == [True, False, False, False, False]


# Mistakes -------------------------------------------------------------------------------------------------------------


def test_mistakes_are_mended_and_not_learnt():
    def rule(dialog):
        a, b = numbers(dialog[0]["content"])
        mends = "There is a mistake" in dialog[-1]["content"]
        is_right = a % 3 == 0 or (mends and a % 3 == 1)
        return f"So it is.\nAnswer: {a + b + (not is_right)}"

    made = made_by("math_corrections", rule, 6)
    assert sorted(one.reason for one in made) == sorted(["no_mistake", "corrected", "not_corrected"] * 2)
    for one in made:
        if one.kept:
            _, failed, _, mended = one.messages
            assert (failed["weight"], "weight" in mended) == (0, False)
            a, b = numbers(one.messages[0]["content"])
            assert mended["content"].endswith(f"Answer: {a + b}")


# Steps and search -----------------------------------------------------------------------------------------------------

LENGTH, SURE = 8, 0.6
"""Steps of a solution, and how often the model takes the right one."""


class Walker:
    """Counts up to LENGTH; at every step it errs now and then, and never recovers from an error."""

    at_once = 64

    def __init__(self) -> None:
        self.draw, self.steps = random.Random(7), 0

    def answer(self, dialogs, samples, temperature, max_tokens, seed):
        return [[Reply(self.say(dialog[-1]["content"]), True) for _ in range(samples)] for dialog in dialogs]

    def say(self, asked: str) -> str:
        begun = [line for line in asked.splitlines() if line.startswith("step")]
        if "Write the next step" in asked:
            return self.step(begun)
        lines = list(begun)
        while not lines or lines[-1].startswith("step"):
            lines.append(self.step(lines))
        return "\n".join(lines[len(begun) :])

    def step(self, begun: list[str]) -> str:
        self.steps += 1
        if len(begun) == LENGTH:
            return f"Answer: {'wrong' if any('err' in line for line in begun) else 'right'}"
        return f"step {len(begun)}{'' if self.draw.random() < SURE else ' err'}"


class WalkShop(ToyShop):
    """Tasks that are walked; `scores` says whether a reward model scores steps."""

    def __init__(self, *, scores: bool) -> None:
        super().__init__(lambda dialog: "")
        self.voice, self.scores = Walker(), scores

    def tasks(self, count, seed):
        return [Task(f"w{n}", "walks", f"Walk number {n}.", "right", Custom("walk", {})) for n in range(count)]

    def passed(self, tasks, answers):
        return [answer.rstrip().endswith("Answer: right") for answer in answers]

    def score(self, dialogs):
        if not self.scores:
            return [None] * len(dialogs)
        return [-3.0 if "err" in dialog[-1]["content"] else 3.0 for dialog in dialogs]


def searched(**options) -> tuple[int, int]:
    """Tasks that were solved, of 12, and the steps that were drawn for it."""
    with WalkShop(scores=options.pop("scores")) as shop:
        made = made_in(shop, "math_search", 12, tries=0, **options)
        assert all(one.messages[-1]["content"].endswith("Answer: right") for one in made if one.kept)
        return sum(one.kept for one in made), shop.voice.steps


def test_search_solves_what_plain_answers_do_not():
    """For as many steps: plain answers are right as often as all eight steps are, one in sixty; a search that is guided
    goes on from good steps."""
    solved, steps = searched(scores=True, simulations=14)
    with WalkShop(scores=True) as shop:
        plain = 0
        for task in shop.tasks(12, 0):
            budget = steps // 12 + shop.voice.steps
            while shop.voice.steps < budget:
                if shop.voice.say(task.prompt).endswith("right"):
                    plain += 1
                    break
    print(solved, plain, steps, searched(scores=False, simulations=14))
    assert solved >= 8
    assert plain <= 3


def test_only_hard_tasks_are_searched():
    made = made_by("math_search", lambda dialog: adder([{**dialog[-1]}]), 5, simulations=2)
    assert {one.reason for one in made} == {"not_hard", "not_found"}


def test_step_pairs_tell_good_steps_from_bad_ones():
    """The better beginning has no error, the worse one has; nothing of it is finetuned on."""
    with WalkShop(scores=False) as shop:
        made = made_in(shop, "math_step_pairs", 12, samples=8, rollouts=8, margin=0.4)
    pairs = [pair for one in made for pair in one.steps]
    assert len(pairs) >= 6
    assert not any(one.kept for one in made)
    detected = [("err" in worse, "err" in better) for better, worse in pairs]
    assert all(is_bad and not is_good for is_bad, is_good in detected)


# Facts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "right", "definite", "reason"),
    [
        (["1815", "1815"], "yes", "yes", "known"),
        (["1914", "1900"], "no", "yes", "sure_and_wrong"),
        (["I do not know."], "no", "no", "not_consistent"),
        (["1815", "1914"], "", "yes", "not_consistent"),
        (["1815"], "who can tell", "yes", "judge_unreadable"),
    ],
)
def test_refusals_where_the_model_is_sure_and_wrong(answers, right, definite, reason):
    class Asked:
        at_once = 8

        def answer(self, dialogs, samples, temperature, max_tokens, seed):
            return [[Reply(self.say(d[-1]["content"], n), True) for n in range(samples)] for d in dialogs]

        def say(self, said, n):
            if "Write one question" in said:
                return "In which year was it?"
            if said.startswith("Does the text"):
                return right or ("yes" if said.endswith("1815") else "no")
            return definite if said.startswith("Does the answer") else answers[n % len(answers)]

    with ToyShop(lambda dialog: "") as shop:
        shop.voice = Asked()
        made = made_in(shop, "factuality", 3)
    assert {one.reason for one in made} == {reason}
    for one in made:
        assert one.kept == (reason in ("known", "sure_and_wrong"))
        if reason == "sure_and_wrong":
            assert "1914" not in one.messages[-1]["content"]
            assert one.rejected == "1914"
