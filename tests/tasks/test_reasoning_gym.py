"""reasoning-gym as a reward: its own scorers are the oracle; what they must not do is checked in their source.

The package is an extra: without it these tests are skipped.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import textwrap

import pytest
from pydantic import ValidationError

from llama3.errors import ConfigError, DataError
from llama3.tasks import NotEnoughTasks, Task
from llama3.tasks.extraction import extract
from llama3.tasks.rewards import CombinedReward
from llama3_plugins.rewards.reasoning_gym import ReasoningGym, ReasoningGymOptions
from llama3_plugins.rewards.reasoning_gym_families import COMPARED, EXACT, REFUSED
from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions

gym = pytest.importorskip("reasoning_gym")
from reasoning_gym.factory import DATASETS  # noqa: E402 - after the check that it is there

USUAL = ("chain_sum", "gcd", "calendar_arithmetic", "letter_counting", "leg_counting", "number_sorting", "word_sorting")
SLOW = {"arc_agi", "futoshiki", "quantum_lock", "sokoban", "sudoku", "zebra_puzzles", "game_of_life", "jugs"}
"""Families whose generators take longer than a test may."""


def reward(*families, **options) -> ReasoningGym:
    return ReasoningGym(ReasoningGymOptions(families=list(families), **options))


def score(plugin: ReasoningGym, task: Task, *answers: str) -> list[float | None]:
    return plugin.score([task.prompt] * len(answers), answers, [json.loads(json.dumps(task.to_json()))] * len(answers))


# Reading the scorers ------------------------------------------------------------------------------------------------

EVALUATING = {
    "eval", "exec", "compile", "parse_expr", "sympify", "literal_eval", "__import__", "open", "Fraction", "system",
}  # fmt: skip
"""Calls that make more of a text than a value to compare (Fraction: "1e999999999" never ends)."""
OF_THE_GENERATOR = {"eval(entry['answer'])", "eval(problem)"}
"""Reviewed: they evaluate text that the generator made."""


def evaluating_calls(dataset) -> set[str]:
    """Calls of the kinds above in `score_answer` and in every function of the package that it can reach."""
    seen, todo, found = set(), [dataset.score_answer], set()
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Call) and name_of(node.func) in EVALUATING:
                found.add(ast.unparse(node))
            todo += reached(name_of(node), dataset, sys.modules[function.__module__])
    return found


def name_of(node) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def reached(name, *holders):
    for holder in holders:
        target = inspect.getattr_static(holder, name, None) if name else None
        target = getattr(target, "__func__", target)
        if str(getattr(target, "__module__", "")).startswith("reasoning_gym"):
            if inspect.isclass(target):
                yield from filter(written, vars(target).values())
            elif written(target):
                yield target


def written(member) -> bool:
    """A function with source: not what `dataclass` makes."""
    return inspect.isfunction(member) and not inspect.unwrap(member).__code__.co_filename.startswith("<")


def test_allowed_scorers_only_compare():
    found = {name: evaluating_calls(DATASETS[name][0]) - OF_THE_GENERATOR for name in COMPARED}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_the_reader_of_scorers_sees_what_it_looks_for():
    assert evaluating_calls(DATASETS["spiral_matrix"][0]) == {"eval(answer)"}
    assert any("parse_expr(answer" in call for call in evaluating_calls(DATASETS["puzzle24"][0]))
    assert "eval(problem)" in evaluating_calls(DATASETS["bitwise_arithmetic"][0])


def test_every_family_of_the_package_is_decided_once():
    assert sorted([*COMPARED, *EXACT, *REFUSED]) == sorted(DATASETS)


HOSTILE = (
    "", "0", "nan", "inf", "1e999999999", "1e-999999999", "9" * 5000, "0x" + "f" * 4000, "[" * 5000, "{" * 3000,
    "F+99999999999", "U999999999", "1/0", "None", "[]", "{}", "A1" * 2000, "1 " * 2000, "a\nb\n" * 500, "sNaN",
    "__import__('os').abort()", '"; import os; os.abort(); "',
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(COMPARED - SLOW | EXACT))
def test_references_pass_and_hostile_answers_fail(name):
    plugin = reward(name)
    for task in plugin.tasks("train", 2, seed=3):
        assert score(plugin, task, task.reference) == [1.0]
        answers = [answer for answer in HOSTILE if answer.strip() != task.reference.strip()]
        assert score(plugin, task, *answers) == [0.0] * len(answers)


# Tasks --------------------------------------------------------------------------------------------------------------


def test_same_arguments_give_the_same_tasks_and_others_do_not():
    plugin = reward(*USUAL)
    assert plugin.tasks("train", 40, seed=1) == reward(*USUAL).tasks("train", 40, seed=1)
    assert plugin.tasks("train", 40, seed=1) != plugin.tasks("train", 40, seed=2)


def test_the_splits_share_no_question_whatever_the_seeds():
    plugin = reward("chain_sum", {"name": "gcd", "max_value": 30}, "leg_counting")
    drawn = {s: [t for seed in range(4) for t in plugin.tasks(s, 300, seed)] for s in ("train", "held_out")}
    for part in ("id", "prompt"):
        train, held_out = ({getattr(task, part) for task in drawn[split]} for split in ("train", "held_out"))
        assert train.isdisjoint(held_out)
    seeds = {split: {task.check.data["seed"] for task in rows} for split, rows in drawn.items()}
    assert max(seeds["train"]) < 1 << 30 <= min(seeds["held_out"])


@pytest.mark.parametrize(
    "names", [USUAL, pytest.param(sorted(COMPARED - SLOW | EXACT), marks=pytest.mark.slow)], ids=["usual", "all"]
)
def test_tasks_are_the_same_in_every_process(names):
    """Some generators depend on the order of sets, which another hash seed changes; those families are refused."""
    count = 2 * len(names)
    code = (
        "from llama3_plugins.rewards.reasoning_gym import *\n"
        f"reward = ReasoningGym(ReasoningGymOptions(families={list(names)!r}))\n"
        f"print([(task.prompt, task.reference) for task in reward.tasks('train', {count}, 5)])"
    )
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environ = os.environ | {"PYTHONHASHSEED": hash_seed}
    said = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True, text=True).stdout
    assert ast.literal_eval(said) == [(task.prompt, task.reference) for task in reward(*names).tasks("train", count, 5)]


def test_families_take_turns_by_weight():
    plugin = reward("gcd", {"name": "chain_sum", "weight": 3})
    families = [task.family for task in plugin.tasks("train", 40, seed=1)]
    assert families.count("reasoning_gym.chain_sum") == 30
    assert families[:4].count("reasoning_gym.gcd") == 1


def test_an_exhausted_family_leaves_its_turns_to_the_others():
    few = {"name": "gcd", "min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 4}
    with pytest.raises(NotEnoughTasks, match="distinct train tasks exist") as caught:
        reward(few).tasks("train", 100, seed=1)
    assert 0 < caught.value.available < 16
    assert len(reward(few, "chain_sum").tasks("train", 100, seed=1)) == 100


def test_generator_options_reach_the_generator_and_the_scorer():
    (task,) = (plugin := reward({"name": "chain_sum", "min_terms": 2, "max_terms": 2})).tasks("train", 1, seed=1)
    assert len(task.prompt.split("=")[0].split(":")[1].split()) == 3
    assert score(plugin, task, f"{int(task.reference)}.00", str(int(task.reference) + 1)) == [1.0, 0.0]


# Scores -------------------------------------------------------------------------------------------------------------


def test_scores_are_the_packages_own():
    names = [*USUAL, "spell_backward", "decimal_arithmetic", "time_intervals", "shortest_path"]
    whole, partial = reward(*names), reward(*names, partial=True)
    for task in whole.tasks("held_out", 5 * len(names), seed=11):
        data = task.check.data
        dataset = gym.create_dataset(data["family"], seed=data["seed"], size=1)
        for answer in (task.reference, task.reference[::-1], task.reference + " 1", "7", "Monday"):
            expected = min(1.0, dataset.score_answer(extract(answer, task.reference), dataset[0]))
            assert score(partial, task, answer) == [pytest.approx(expected)]
            assert score(whole, task, answer) == [float(expected >= 1)]


def test_only_own_tasks_are_scored_and_both_kinds_mix():
    combined = CombinedReward({"reasoning_gym": reward("gcd"), "verifiable": Verifiable(VerifiableOptions())})
    tasks = combined.tasks("train", 10, seed=1)
    assert [task.family.startswith("reasoning_gym.") for task in tasks] == [True, False] * 5
    scores = combined.score([t.prompt for t in tasks], [t.reference for t in tasks], [t.to_json() for t in tasks])
    assert scores.total == [1.0] * 10
    assert scores.not_scorable == 0
    assert [part != part for part in scores.parts["reasoning_gym"]] == [False, True] * 5


def test_a_task_of_another_version_is_named():
    plugin = reward("gcd")
    (task,) = plugin.tasks("train", 1, seed=1)
    row = task.to_json() | {"prompt": "Find the greatest of 3 and 4"}
    with pytest.raises(DataError, match="another version"):
        plugin.score(["?"], ["wrong"], [row])


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (["countdown"], "evaluates the answer"),
        (["chain_summ"], "did you mean 'chain_sum'"),
        (["gcd", "gcd"], "named twice: gcd"),
        ([{"name": "gcd", "seed": 3}], "seed cannot be set"),
        ([{"name": "gcd", "weight": 0}], "greater than 0"),
        ([], "at least 1"),
    ],
)
def test_bad_options_are_refused(families, message):
    with pytest.raises(ValidationError, match=message):
        ReasoningGymOptions(families=families)


def test_options_that_the_generator_refuses_are_named_before_work_starts():
    with pytest.raises(ConfigError, match=r"gcd.*nonsense"):
        reward({"name": "gcd", "nonsense": 1})
    with pytest.raises(ConfigError, match=r"chain_sum.*refuses"):
        reward({"name": "chain_sum", "min_terms": 5, "max_terms": 2})
