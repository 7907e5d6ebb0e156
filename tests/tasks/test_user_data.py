"""A user's own rows: every kind of TRL's columns, everything that can be wrong with them, and what they become."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.data_utils import extract_prompt

from llama3.artifacts.run import RunDir
from llama3.config import load as load_config
from llama3.errors import ConfigError, DataError
from llama3.preflight import load_config as checked
from llama3.tasks import Task
from llama3.tasks.data_kind import written_kinds
from llama3.tasks.rows import read_rows
from llama3.tasks.user_data import UserDataOptions, own_data, read_lines
from llama3.tasks.user_rows import parse_row

ASK = {"role": "user", "content": "What is 2 + 3?"}
SAY = {"role": "assistant", "content": "5"}
WRONG = {"role": "assistant", "content": "6"}
SYSTEM = {"role": "system", "content": "Be brief."}
KINDS = written_kinds()


@pytest.mark.parametrize(
    ("row", "expected", "prompt", "answers"),
    [
        ({"messages": [SYSTEM, ASK, SAY]}, "dialogs", [SYSTEM, ASK], ["5"]),
        ({"prompt": "What is 2 + 3?", "completion": "5"}, "dialogs", [ASK], ["5"]),
        ({"prompt": [SYSTEM, ASK], "completion": [SAY], "id": 7}, "dialogs", [SYSTEM, ASK], ["5"]),
        ({"prompt": "What is 2 + 3?", "chosen": "5", "rejected": "6"}, "pairs", [ASK], ["5", "6"]),
        ({"prompt": [ASK], "chosen": [SAY], "rejected": [WRONG]}, "pairs", [ASK], ["5", "6"]),
        ({"chosen": [ASK, SAY], "rejected": [ASK, WRONG]}, "pairs", [ASK], ["5", "6"]),
        ({"prompt": [ASK], "chosen": "5", "rejected": "6", "edited": "5!"}, "pairs", [ASK], ["5!", "5", "6"]),
        ({"prompt": "What is 2 + 3?", "ranking": ["five", "5", "6"]}, "pairs", [ASK], ["five", "5", "6"]),
        ({"prompt": "What is 2 + 3?", "completion": "6", "label": False}, "labels", [ASK], ["6"]),
        ({"prompt": "What is 2 + 3?", "answer": 5, "anything": [1]}, "prompts", [ASK], []),
        (
            {"prompt": [{"role": "tool", "content": [{"type": "text", "text": "5"}]}, ASK]},
            "prompts",
            [{"role": "tool", "content": "5"}, ASK],
            [],
        ),
    ],
)
def test_kinds_of_rows(row, expected, prompt, answers):
    parsed = parse_row(KINDS, row, "x.jsonl:1")
    assert (parsed.kind, list(parsed.prompt), list(parsed.answers)) == (expected, prompt, answers)


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=6), st.text("ab ", max_size=6))
@settings(max_examples=300)
def test_the_implicit_prompt_of_texts_is_trls(prompt, better, worse):
    row = {"chosen": prompt + better, "rejected": prompt + worse}
    if row["chosen"] == row["rejected"]:
        return
    try:
        parsed = parse_row(KINDS, row, "x")
    except DataError:
        return  # nothing in common, or nothing left to answer
    theirs = extract_prompt(row)
    assert parsed.prompt_text == theirs["prompt"]
    assert parsed.answers == (theirs["chosen"].strip(), theirs["rejected"].strip())


@given(st.lists(st.sampled_from([ASK, SYSTEM, {"role": "user", "content": "And 4?"}]), min_size=1, max_size=4))
@settings(max_examples=50)
def test_the_implicit_prompt_of_messages_is_trls(prompt):
    row = {"chosen": [*prompt, SAY], "rejected": [*prompt, WRONG]}
    if all(message == SYSTEM for message in prompt):
        return
    assert list(parse_row(KINDS, row, "x").prompt) == extract_prompt(row)["prompt"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no known kind"),
        ({"mesages": [ASK, SAY]}, "did you mean 'messages'"),
        ({"messages": [ASK, SAY], "tools": []}, "tools does not belong to dialogs"),
        ({"messages": [ASK, SAY], "prompt": "?"}, "whole dialog"),
        ({"completion": "5"}, "dialogs need prompt"),
        ({"prompt": "?", "chosen": "5"}, "pairs need rejected"),
        ({"prompt": "?", "ranking": ["5", "6"], "chosen": "5"}, "a ranking holds all answers"),
        ({"prompt": "?", "ranking": ["5"]}, "at least two"),
        ({"prompt": "?", "chosen": "5", "rejected": "6", "score": 2}, "score does not belong"),
        ({"prompt": "?", "completions": "5"}, "'completions' is hardly more than 'completion' misspelt"),
        ({"prompt": "?", "Completion": "5"}, "write completion"),
        ({"prompt": "?", "choosen": "5", "rejectd": "6"}, "'choosen' is hardly more than 'chosen'"),
        ({"messages": [ASK]}, "ends with the user"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": [SAY]}, "prompt is empty"),
        ({"messages": [ASK, {"role": "asistant", "content": "5"}]}, "did you mean 'assistant'"),
        ({"messages": [ASK, {"role": "assistant", "content": [{"type": "image_url"}]}]}, "'image_url'"),
        ({"messages": [ASK, {"role": "assistant", "content": 5}]}, "text or parts as content"),
        ({"messages": "hello"}, "not a list of messages"),
        ({"prompt": "?", "completion": "  "}, "completion is empty"),
        ({"prompt": " ", "completion": "5"}, "the prompt is empty"),
        ({"prompt": "?", "completion": 5}, "completion is int"),
        ({"prompt": "?", "completion": [ASK, SAY]}, "not one assistant message"),
        ({"prompt": [ASK, SAY], "completion": "5"}, "ends with the assistant"),
        ({"prompt": "?", "chosen": "5", "rejected": "5"}, "two answers are the same"),
        ({"chosen": "yes", "rejected": "no"}, "no common beginning"),
        ({"chosen": "yes", "rejected": [SAY]}, "both be text or both be messages"),
        ({"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, "ends with the assistant"),
        ({"prompt": "?", "completion": "5", "label": 1}, "label is 1"),
        ({"prompt": "?", "completion": "5", "id": [1]}, "id is list"),
        ({"prompt": "?", "completion": "5", "split": "test"}, "unknown split 'test'"),
    ],
)
def test_bad_rows_are_named(row, message):
    with pytest.raises(DataError, match=message):
        parse_row(KINDS, row, "x.jsonl:1")


def write(path, rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def test_all_problems_come_at_once_with_their_lines(tmp_path):
    good = {"prompt": "?", "completion": "5"}
    rows = [good, "{", "[1]", "", good | {"completion": ""}, {"prompt": "?", "chosen": "1", "rejected": "2"}]
    with pytest.raises(DataError) as caught:
        read_lines(write(tmp_path / "my.jsonl", rows))
    assert [problem.where for problem in caught.value.problems] == [f"my.jsonl:{n}" for n in (2, 3, 5, 6)]
    assert "of pairs, the first of dialogs" in caught.value.problems[-1].what
    with pytest.raises(DataError) as caught:
        read_lines(write(tmp_path / "worse.jsonl", ["{"] * 50))
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].what == "and 30 more problems"


def test_files_that_are_none(tmp_path):
    for content, message in [(b"", "no rows"), (b"\n\n", "no rows"), (b'{"prompt": "\xff"}\n', "not a line of JSON")]:
        path = tmp_path / "my.jsonl"
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_lines(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="not a line of JSON"):
        read_lines(write(path, ["[" * 100_000]))


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": "?", "completion": "5"}).encode())
    assert len(read_lines(path)) == 1


@pytest.fixture
def made(tmp_path):
    """The artifact of rows, and its files' rows by name."""

    def make(rows):
        path = write(tmp_path / "my.jsonl", rows)
        config = load_config({"post_training": {"data": str(path)}}).config
        with RunDir(tmp_path / "run") as run:
            artifact = run.execute(own_data(UserDataOptions.of(config)), {}, UserDataOptions.of(config))
        return artifact, {file.name: list(read_rows(file)) for file in artifact.path.glob("*.jsonl")}

    return make


def test_dialogs(made):
    rows = [{"prompt": f"What is {i} + 1?", "completion": str(i + 1)} for i in range(60)]
    artifact, files = made([*rows, rows[0], rows[5] | {"id": "again"}])
    assert artifact.type == "dialogs"
    assert artifact.metrics == {"kind": "dialogs", "rows": 62, "train": len(files["dialogs.jsonl"]),
                                "held_out": len(files["held_out.jsonl"]), "repeated": 2}  # fmt: skip
    assert 0 < artifact.metrics["held_out"] < 20
    trained = {row["messages"][0]["content"] for row in files["dialogs.jsonl"]}
    withheld = {row["prompt"] for row in files["held_out.jsonl"]}
    assert trained | withheld == {row["prompt"] for row in rows}
    assert not trained & withheld
    first = files["dialogs.jsonl"][0]
    assert first.keys() == {"id", "source", "messages"}
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"]


def test_pairs_also_serve_algorithms_that_want_labels_or_prompts(made):
    train = {"split": "train"}
    artifact, files = made(
        [
            {"prompt": "a?", "chosen": "1", "rejected": "2", "edited": "0", **train},
            {"prompt": "b?", "ranking": ["1", "2", "3"], **train},
            {"prompt": "c?", "chosen": "1", "rejected": "2", "split": "held_out"},
        ]
    )
    assert artifact.type == "preferences"
    asked = [{"role": "user", "content": "b?"}]
    assert files["preferences.jsonl"] == [
        {"id": "my-1", "messages": [{"role": "user", "content": "a?"}], "chosen": "1", "rejected": "2", "edited": "0"},
        {"id": "my-2", "messages": asked, "ranking": ["1", "2", "3"]},
    ]
    assert [(row["completion"], row["label"]) for row in files["labels.jsonl"]] == [
        ("0", True), ("1", True), ("2", False), ("1", True), ("2", False), ("3", False)
    ]  # fmt: skip
    assert [Task.from_json(row).prompt for row in files["prompts.jsonl"]] == ["a?", "b?"]
    assert [row["prompt"] for row in files["held_out.jsonl"]] == ["c?"]


def test_labels(made):
    rows = [{"prompt": "a?", "completion": str(i), "label": i == 1, "split": "train"} for i in range(2)]
    _, files = made(rows)
    asked = [{"role": "user", "content": "a?"}]
    assert files["labels.jsonl"] == [
        {"id": "my-1", "messages": asked, "completion": "0", "label": False},
        {"id": "my-2", "messages": asked, "completion": "1", "label": True},
    ]
    assert len(files["prompts.jsonl"]) == 1


def test_columns_of_rewards_are_no_misspellings():
    row = {"prompt": "?", "answer": "5", "answers": ["5"], "source": "x", "prompts": 3, "tests": [], "level": 1}
    assert parse_row(KINDS, row, "x").kind == "prompts"


def test_prompts_keep_their_columns_for_rewards(made):
    _, files = made([{"prompt": [SYSTEM, ASK], "answer": 5, "hint": "add", "split": "train"}])
    task = Task.from_json(files["prompts.jsonl"][0])
    assert task.messages == [SYSTEM, ASK]
    assert task.reference == "5"
    assert task.check.data == {"answer": 5, "hint": "add"}


def test_nothing_left_to_train_on_is_an_error(made):
    with pytest.raises(DataError, match="all 1 rows are held out"):
        made([{"prompt": "a?", "completion": "1", "split": "held_out"}])


def test_a_prompt_on_both_sides_is_an_error(made):
    rows = [{"prompt": "a?", "completion": text, "split": split} for text, split in [("1", "train"), ("2", "held_out")]]
    with pytest.raises(DataError, match="held-out prompt is trained on in line 1"):
        made(rows)


def test_the_rows_and_not_the_path_decide_what_is_made_again(tmp_path):
    row = {"prompt": "?", "completion": "5", "split": "train"}
    paths = [write(tmp_path / name, [row]) for name in ("a.jsonl", "b.jsonl")]
    configs = [load_config({"post_training": {"data": str(path)}}).config for path in paths]
    stamps = [UserDataOptions.of(config).model_dump() for config in configs]
    assert stamps[0] == stamps[1]
    write(paths[0], [row, row | {"completion": "6"}])
    assert UserDataOptions.of(configs[0]).model_dump() != stamps[1]


@pytest.mark.parametrize(
    ("row", "settings", "error", "message"),
    [
        (
            {"prompt": "?", "completion": "5", "label": True},
            {},
            ConfigError,
            "'dpo' learns from pairs, the rows are labels",
        ),
        ({"prompt": "?", "answer": "5"}, {}, ConfigError, "'dpo' learns from pairs, the rows are prompts"),
        ({"prompt": "?"}, {"algorithm": "dpo"}, ConfigError, r"choose one of .*grpo"),
        ({"promt": "?"}, {}, DataError, "did you mean 'prompt'"),
    ],
)
def test_a_run_is_refused_before_it_starts(tmp_path, row, settings, error, message):
    path = write(tmp_path / "my.jsonl", [row])
    with pytest.raises(error, match=message):
        checked({"post_training": {"data": str(path), **settings}})


def test_a_missing_file_is_refused_before_a_run_starts(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl.*cannot be read"):
        checked({"post_training": {"data": str(tmp_path / "none.jsonl")}})


@pytest.mark.parametrize(
    ("row", "algorithm"),
    [({"prompt": "?", "chosen": "5", "rejected": "6"}, "dpo"), ({"prompt": "?"}, "grpo"),
     ({"messages": [ASK, SAY]}, "dpo")],
)  # fmt: skip
def test_rows_that_fit_their_algorithm_pass(tmp_path, row, algorithm):
    checked({"post_training": {"data": str(write(tmp_path / "my.jsonl", [row])), "algorithm": algorithm}})
