"""Prompts and rows that the context has no room for end a run before anything is trained; rows that teach the contrary
of each other are told of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pages import write_model
from test_recipe import write_text

from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.tokenizer import Tokenizer

CONFIG = """
run: {name: room, threads: 1, device: cpu}
data: {sources: [{name: files, path: notes}], filters: [], held_out: 0.3}
model: {preset: tiny, dim: 16, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn_dim: 32, max_seq_len: 64}
tokenizer: {vocab_size: 300, num_special: 16}
pretrain: {steps: 2, batch: 2, seq_len: 32, precision: fp32}
post_training:
  rewards: [{name: jsonl_tasks, path: tasks.jsonl}]
  reject: {prompts: 4, samples: 2, max_tokens: 32, precision: fp32}
  prefer: {prompts: 4, samples: 2, max_tokens: 40, sampling_precision: fp32}
logging: []
"""
ADOPTED = """
extends: adopt
run: {name: room, threads: 1}
data: {sources: [{name: files, path: notes}], filters: [], held_out: 0.3}
model: {path: my-model}
evaluation: {limit: 4, max_tokens: 4, tasks: [bits_per_byte]}
audit: {must_improve: []}
"""


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A run of a config that is refused: what it told."""
    monkeypatch.chdir(tmp_path)
    write_text(Path("notes"))

    def call(text, *sets):
        Path("room.yaml").write_text(text)
        with pytest.raises(SystemExit) as done:
            main(["run", "room.yaml", *(part for change in sets for part in ("--set", change))])
        assert done.value.code == 1
        return " ".join("".join(capsys.readouterr()).split())

    return call


def write_rows(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_new_model_is_not_trained_for_prompts_without_room(refused):
    asked = [f"Which number comes after {n}, if one counts on by ones as one does?" for n in range(40)]
    rows = [{"prompt": prompt, "answer": str(n + 1)} for n, prompt in enumerate(asked)]
    write_rows("tasks.jsonl", [*rows, {"prompt": asked[0], "answer": "2"}, {"prompt": asked[1], "answer": " 2 "}])
    told = refused(CONFIG)
    for stage, longest in (("reject", 32), ("prefer", 40)):
        where = f"post_training.{stage}.max_tokens"
        assert f"{where}: none of 4 prompts leaves room for {longest} tokens of answer" in told
    assert told.count("tasks.jsonl: 1 prompts are asked with different right answers") == 1
    assert set(RunDir("runs/room").current()) == {"curate", "tokenizer"}


def test_given_rows_that_are_too_long_are_refused_first_and_contradictions_told(refused):
    texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
    write_model("my-model", Tokenizer.train(texts, 300, 16), max_seq_len=64)
    pairs = [{"prompt": f"Say {n}.", "chosen": "yes " * 30, "rejected": "no"} for n in range(30)]
    pairs += [{"prompt": f"Say {n}.", "chosen": "no", "rejected": "yes " * 30} for n in (3, 5, 7)]
    pairs += [{"prompt": "Say 9.", "chosen": "no", "rejected": "never"}]
    write_rows("pairs.jsonl", [{**row, "split": "train"} for row in pairs])
    told = refused(ADOPTED, "post_training.data=pairs.jsonl")
    assert re.search(r"pairs\.jsonl:1: 3[34] of 34 examples have over 64 tokens", told)
    assert "! pairs.jsonl: answers to 3 prompts are better than each other, both ways, among the 34 rows" in told
    assert "evaluate-base" not in RunDir("runs/room").current()

    rows = [{"prompt": "Say yes.", "completion": "Yes.", "label": n % 2 == 0, "split": "train"} for n in range(2)]
    rows += [rows[0]]
    rows += [{"prompt": f"Say {n}.", "completion": "no " * 60, "label": True, "split": "train"} for n in range(9)]
    write_rows("labels.jsonl", rows)
    told = refused(ADOPTED, "post_training.data=labels.jsonl", "post_training.algorithm=kto")
    assert "labels.jsonl:4: 9 of 11 examples have over 64 tokens" in told, "line 3 is one that occurs twice"
    assert "! labels.jsonl: answers to 1 prompts are labelled both good and bad" in told
