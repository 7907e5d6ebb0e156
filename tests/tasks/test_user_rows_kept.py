"""Nothing of a user's rows is lost in silence: keys of messages, published shapes, formats of files, near-equals."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.slot_types import Slot
from llama3.errors import DataError
from llama3.posttraining.examples import dialog_example
from llama3.tasks.data_kind import data_kind, written_kinds
from llama3.tasks.rows import read_rows
from llama3.tasks.user_data import UserDataOptions, own_data, read_lines
from llama3.tasks.user_rows import parse_row
from llama3.tokenizer import Tokenizer
from llama3_plugins.algorithms.options import RewardModelOptions
from llama3_plugins.algorithms.reward_model import RewardModel

KINDS = written_kinds()
ASK = {"role": "user", "content": "2+2?"}
WRONG = {"role": "assistant", "content": "WRONG"}
AGAIN = {"role": "user", "content": "sure?"}
FOUR = {"role": "assistant", "content": "FOUR"}
TRAIN = {"split": "train"}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([f"line {n}: the quick brown fox, {n * n} times" for n in range(50)], 300, num_special=16)


@pytest.fixture
def stored(tmp_path):
    """The files that a run makes of rows."""

    def make(rows):
        path = tmp_path / "my.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kind = Slot(name=read_lines(path)[0].row.kind)
        from llama3 import _core

        options = UserDataOptions(path=str(path), content=_core.blake3_file(str(path)), kind=kind)
        with RunDir(tmp_path / "run") as run:
            artifact = run.execute(own_data(options), {}, options)
        return {file.name: list(read_rows(file)) for file in artifact.path.glob("*.jsonl")}

    return make


def learnt(tokenizer, messages):
    example = dialog_example(tokenizer, messages)
    return tokenizer.decode(
        [int(i) for i in example.answer.ids[np.broadcast_to(example.answer.is_target, len(example.answer.ids))]]
    )


@pytest.mark.parametrize("key", [{"weight": 0}, {"train": False}, {"training": False}, {"weight": 0, "train": False}])
def test_a_message_left_out_is_not_learnt(stored, tokenizer, key):
    files = stored([{"messages": [ASK, WRONG | key, AGAIN, FOUR], **TRAIN}])
    (row,) = files["dialogs.jsonl"]
    assert learnt(tokenizer, row["messages"]) == "FOUR<|eot_id|>"
    assert "WRONG" in learnt(tokenizer, [ASK, WRONG | {"weight": 1}, AGAIN, FOUR])


def test_the_last_message_may_be_left_out_too(stored, tokenizer):
    (row,) = stored([{"messages": [ASK, FOUR, AGAIN, WRONG | {"weight": 0}], **TRAIN}])["dialogs.jsonl"]
    assert learnt(tokenizer, row["messages"]) == "FOUR<|eot_id|>"


def test_of_prompt_and_completion_the_completion_is_learnt(stored, tokenizer):
    (row,) = stored([{"prompt": [ASK, WRONG, AGAIN], "completion": "FOUR", **TRAIN}])["dialogs.jsonl"]
    assert learnt(tokenizer, row["messages"]) == "FOUR<|eot_id|>"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": [ASK, FOUR | {"tool_calls": [{"function": {"name": "add"}}]}]}, "has tool_calls"),
        ({"messages": [ASK, FOUR | {"reasoning_content": "add"}]}, "has reasoning_content"),
        ({"messages": [ASK, FOUR | {"name": "Bob"}]}, "has name"),
        ({"messages": [ASK, FOUR | {"weight": 0.5}]}, "weight is 0.5"),
        ({"messages": [ASK, FOUR | {"weight": True}]}, "weight is True"),
        ({"messages": [ASK, FOUR | {"train": 0}]}, "train is 0"),
        ({"messages": [ASK, FOUR | {"weight": 1, "train": False}]}, "do not agree"),
        ({"messages": [ASK | {"train": True}, FOUR]}, "only answers are"),
        ({"messages": [ASK, FOUR | {"weight": 0}]}, "every answer of the dialog"),
        ({"prompt": "?", "completion": [FOUR | {"weight": 0}]}, "weight of completion is 0"),
        ({"prompt": "?", "chosen": [FOUR | {"tool_calls": [1]}], "rejected": [WRONG]}, "has tool_calls"),
    ],
)
def test_what_cannot_be_honoured_is_refused(row, why):
    with pytest.raises(DataError, match=why):
        parse_row(KINDS, row, "x.jsonl:1")


def test_a_key_without_a_value_says_nothing():
    message = FOUR | {"tool_calls": None, "name": "", "weight": None}
    assert parse_row(KINDS, {"messages": [ASK | {"weight": 0}, message]}, "x").answers == ("FOUR",)


def test_a_pair_of_whole_dialogs_with_scores():
    row = {
        "prompt": "2+2?", "prompt_id": "a7", "messages": [ASK, FOUR], "chosen": [ASK, FOUR], "rejected": [ASK, WRONG],
        "score_chosen": 9.0, "score_rejected": 2.0,
    }  # fmt: skip
    parsed = parse_row(KINDS, row, "x")
    assert (list(parsed.prompt), parsed.answers, parsed.id) == ([ASK], ("FOUR", "WRONG"), "a7")
    longer = {"prompt": "sure?", "chosen": [ASK, WRONG, AGAIN, FOUR], "rejected": [ASK, WRONG, AGAIN, WRONG]}
    assert list(parse_row(KINDS, longer, "x").prompt) == [ASK, WRONG, AGAIN]
    for change, why in [
        ({"score_rejected": 10}, "higher score"),
        ({"score_chosen": "9"}, "score_chosen is '9'"),
        ({"messages": [ASK, WRONG]}, "not the chosen dialog"),
        ({"prompt": "3+3?"}, "does not stand"),
    ]:
        with pytest.raises(DataError, match=why):
            parse_row(KINDS, row | change, "x")


def test_a_ranking_stays_whole(stored, tokenizer):
    """The reward model sees every pair of it in one tree; preference losses compare each answer with the next."""
    (row,) = stored([{"prompt": "?", "ranking": ["a", "b", "c", "d"], **TRAIN}])["preferences.jsonl"]
    assert row["ranking"] == ["a", "b", "c", "d"]
    pairs = data_kind("pairs")
    (example,) = pairs.examples(tokenizer, [row])
    assert len(example.ranking) == 4
    whole = RewardModel(RewardModelOptions()).collate([example])
    assert (whole.num_trees, int((whole.parents_S >= 0).sum())) == (1, 4)
    batch = pairs.collate([example])
    assert (batch.num_trees, int((batch.parents_S >= 0).sum())) == (3, 6)


def test_prompts_that_differ_by_little_are_all_kept(stored):
    rows = [
        {"prompt": "Is 3 even?", "answer": "no"},
        {"prompt": "is 3  EVEN?", "answer": "no"},
        {"prompt": "Is 3 even?", "answer": "never"},
        {"prompt": "Is 3 even?", "answer": "no"},
    ]
    files = stored([row | TRAIN for row in rows])
    asked = [(row["prompt"], row["reference"]) for row in files["prompts.jsonl"]]
    assert asked == [(row["prompt"], row["answer"]) for row in rows[:3]]
    assert len({row["id"] for row in files["prompts.jsonl"]}) == 3


ROWS = [
    {"prompt": "Hi, you", "completion": "there\nnow", "label": True},
    {"prompt": "Yo", "completion": "no", "label": False},
]


@pytest.mark.parametrize("shape", ["lines", "array", "one line", "csv", "parquet"])
def test_the_same_rows_in_every_format(tmp_path, shape):
    path = tmp_path / {"csv": "my.csv", "parquet": "my.parquet"}.get(shape, "my.json")
    if shape == "lines":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif shape == "parquet":
        pq.write_table(pa.Table.from_pylist([row | {"id": None} for row in ROWS]), path)
    elif shape == "csv":
        write_csv(path, [row | {"id": ""} for row in ROWS])
    else:
        path.write_text(json.dumps(ROWS, indent=1 if shape == "array" else None))
    assert [line.row for line in read_lines(path)] == [parse_row(KINDS, row, "x") for row in ROWS]


def test_sharegpt():
    turns = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "FOUR"}]
    from llama3.tasks.user_files import _checked

    assert _checked({"conversations": turns}, "x") == {"messages": [ASK, FOUR]}
    row = {"conversations": turns[:1], "chosen": turns[1], "rejected": {"from": "gpt", "value": "WRONG"}}
    assert _checked(row, "x") == {"prompt": [ASK], "chosen": [FOUR], "rejected": [WRONG]}
    assert "turn 1" in str(_checked({"conversations": [{"from": "function_call", "value": "{}"}]}, "x"))


ALPACA = {"instruction": "Add.", "input": "2+2", "output": "FOUR"}
TEMPLATE = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n2+2\n\n### Response:\nFOUR"
ADD = {"prompt": "Add.\n2+2"}


@pytest.mark.parametrize(
    ("row", "read"),
    [
        (ALPACA, ADD | {"completion": "FOUR"}),
        (ALPACA | {"input": "", "text": "the template: Add. FOUR"}, {"prompt": "Add.", "completion": "FOUR"}),
        (ALPACA | {"text": TEMPLATE, "history": [], "id": 3}, ADD | {"completion": "FOUR", "id": 3}),
        (ALPACA | {"label": True}, ADD | {"completion": "FOUR", "label": True}),
        (
            {"instruction": "2+2?", "system": "Sum.", "chosen": "FOUR", "rejected": "WRONG"},
            {"prompt": [{"role": "system", "content": "Sum."}, ASK], "chosen": "FOUR", "rejected": "WRONG"},
        ),
    ],
)
def test_alpaca(tmp_path, row, read):
    path = tmp_path / "my.json"
    path.write_text(json.dumps([row]))
    assert [line.row for line in read_lines(path)] == [parse_row(KINDS, read, "x")]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ALPACA | {"input": ["2+2"]}, "input is list"),
        (ALPACA | {"text": "something else"}, "text does not belong to dialogs"),
        (ALPACA | {"history": [["Hi", "there"]]}, "history does not belong to dialogs"),
        ({"instruction": "Add.", "input": "2+2"}, "columns .*are of no known kind"),
    ],
)
def test_what_alpacas_columns_cannot_say_is_named(tmp_path, row, why):
    path = tmp_path / "my.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=why):
        read_lines(path)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASK, FOUR]},
        {"prompt": [ASK], "completion": "[{not a message}]"},
        {"prompt": [ASK], "chosen": [FOUR], "rejected": [WRONG]},
        {"prompt": "2+2?", "ranking": ["FOUR", "WRONG"]},
        {"prompt": "2+2?", "completion": '[{"a": 1}]'},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "FOUR"}]},
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_chat_in_a_cell_of_csv(tmp_path, row, indent):
    cells = {name: cell if isinstance(cell, str) else json.dumps(cell, indent=indent) for name, cell in row.items()}
    write_csv(tmp_path / "my.csv", [cells])
    (tmp_path / "my.jsonl").write_text(json.dumps(row))
    assert [line.row for line in read_lines(tmp_path / "my.csv")] == [
        line.row for line in read_lines(tmp_path / "my.jsonl")
    ]


@pytest.mark.parametrize("cells", [{"messages": str([ASK, FOUR])}, {"prompt": str([ASK]), "completion": "FOUR"}])
def test_a_chat_in_pythons_words_is_named(tmp_path, cells):
    write_csv(tmp_path / "my.csv", [cells])
    with pytest.raises(DataError, match=r"my.csv:2: the cell of \w+ is no list in JSON.*json\.dumps"):
        read_lines(tmp_path / "my.csv")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(b"{}", mtime=0), "this is gzip"),
        (b"PK\x03\x04", "a zip archive"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (b"PAR1 and no more", "cannot be read"),
        (b'[{"prompt": "a"', "not a line of JSON"),
        (b'{"prompt": "smile", "completion": "cut \\ud83d"}', "half of a character"),
    ],
)
def test_other_files_are_named(tmp_path, content, why):
    path = tmp_path / "my.data"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_lines(path)


def test_tokens_shows_every_shape(tmp_path, tokenizer, capsys):
    tokenizer.save(tmp_path / "m")
    rows = [
        {"prompt": "Hi", "completion": "there"},
        {"prompt": "Hi", "chosen": "there", "rejected": "b"},
        {"prompt": "Hi", "completion": "there", "label": True},
        {"messages": [{"role": "user", "content": "Hi"}], "chosen": "there", "rejected": "b"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "there"}]},
        {"messages": [ASK, WRONG | {"weight": 0}, AGAIN, {"role": "assistant", "content": "there"}]},
        {"instruction": "Say", "input": "Hi", "output": "there"},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stopped:
        main(["tokens", str(tmp_path / "m"), "--data", str(tmp_path / "rows.json"), "--limit", "9"])
    out = capsys.readouterr().out.replace("|", "")
    assert stopped.value.code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  target")] == ["there<eot_id>"] * 7
