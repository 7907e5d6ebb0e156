"""Tasks of a user's file: comparisons, splits, and rows that are none."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from llama3.errors import DataError
from llama3.tasks import NotEnoughTasks
from llama3.tasks.user_data import read_lines
from llama3_plugins.rewards.jsonl_tasks import JsonlTasks, JsonlTasksOptions


@pytest.fixture
def reward(tmp_path):
    def make(*rows, **options):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return JsonlTasks(JsonlTasksOptions(path=str(path), **options))

    return make


@pytest.mark.parametrize(
    ("check", "expected", "answer", "passes"),
    [
        ("exact", "Paris", "It is\nParis.", True),
        ("exact", "Paris", "paris", False),
        ("exact", 42, "Answer: 42", True),
        ("exact", "Paris", "", False),
        ("integer", 1000, "1,000", True),
        ("integer", 7, "+07", True),
        ("integer", 7, "7.0", False),
        ("integer", 7, "seven", False),
        ("number", 0.5, ".50", True),
        ("number", "1,000.5", "1000.50", True),
        ("number", 5, "1e999999999", False),
        ("number", 5, "nan", False),
        ("choice", "B", "(b)", True),
        ("choice", "B", "B. Paris", True),
        ("choice", "B", "B", True),
        ("choice", "B", "Berlin", False),
        ("choice", "B", "A) or B)", False),
        ("regex", r"\d{4}-\d\d", "<answer>2024-05</answer>", True),
        ("regex", r"\d{4}-\d\d", "in 2024-05", False),
        ("regex", r"(a+)+b", "a" * 60, False),
    ],
)
def test_comparisons(reward, check, expected, answer, passes):
    plugin = reward({"prompt": "?", "answer": expected, "check": check, "split": "train"})
    (task,) = plugin.tasks("train", 1, seed=0)
    assert plugin.score([task.prompt], [answer], [json.loads(json.dumps(task.to_json()))]) == [float(passes)]


def test_the_default_comparison_is_an_option(reward):
    plugin = reward({"prompt": "?", "answer": 7, "split": "train"}, check="integer")
    (task,) = plugin.tasks("train", 1, seed=0)
    assert plugin.score([task.prompt] * 2, ["007", "8"], [task.to_json()] * 2) == [1.0, 0.0]


def test_the_split_is_that_of_the_training_data(reward, tmp_path):
    plugin = reward(*({"prompt": f"Word number {i}?", "answer": str(i)} for i in range(200)))
    lines = read_lines(tmp_path / "own.jsonl")
    for split in ("train", "held_out"):
        prompts = {line.written["prompt"] for line in lines if line.split == split}
        assert 5 < len(prompts) < 195
        tasks = plugin.tasks(split, len(prompts), seed=1)
        assert {task.prompt for task in tasks} == prompts
        assert [t.id for t in tasks] != [t.id for t in plugin.tasks(split, len(prompts), seed=2)]
        with pytest.raises(NotEnoughTasks):
            plugin.tasks(split, len(prompts) + 1, seed=1)


def test_a_system_prompt_is_asked_too(reward):
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 3?"}
    (task,) = reward({"prompt": [system, user], "answer": 5, "split": "train"}).tasks("train", 1, seed=0)
    assert task.messages == [system, user]


def test_tasks_of_others_and_rows_without_an_answer_are_not_scored(reward):
    plugin = reward({"prompt": "?", "answer": "5"})
    other = {"check": {"type": "Custom", "reward": "other", "data": {"answer": "5"}}}
    unanswered = {"check": {"type": "Custom", "reward": "jsonl_tasks", "data": {}}}
    exact = {"check": {"type": "Exact", "kind": "text", "expected": "5"}}
    assert plugin.score([""] * 4, ["5"] * 4, [other, unanswered, exact, {}]) == [None] * 4


def test_all_rows_that_are_no_tasks_are_named(reward):
    rows = [
        {"prompt": "ok?", "answer": "5"},
        {"prompt": "none?"},
        {"prompt": "what?", "answer": "5", "check": "exakt"},
        {"prompt": "how many?", "answer": "many", "check": "integer"},
        {"prompt": "like?", "answer": "(", "check": "regex"},
        {"prompt": "yes?", "answer": True},
    ]
    with pytest.raises(DataError) as caught:
        reward(*rows)
    assert [problem.where for problem in caught.value.problems] == [f"own.jsonl:{n}" for n in range(2, 7)]
    assert "did you mean 'exact'" in str(caught.value)
    with pytest.raises(DataError, match="a row of dialogs is no task"):
        reward({"prompt": "?", "completion": "5"})


def test_a_prompt_may_not_be_on_both_sides(reward):
    with pytest.raises(DataError, match=r"own.jsonl:2: this held-out prompt is trained on in line 1"):
        reward({"prompt": "A?", "answer": 1, "split": "train"}, {"prompt": " a? ", "answer": 1, "split": "held_out"})


def test_a_missing_file_is_refused_with_the_config():
    with pytest.raises(ValidationError, match="there is no file"):
        JsonlTasksOptions(path="nowhere.jsonl")
