"""A preference stage whose answers are all as bad as each other says that it learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pages import write_model
from test_recipe import write_text

from llama3.cli import main
from llama3.tokenizer import Tokenizer

CONFIG = """
extends: adopt
run: {name: none, threads: 1}
model: {path: my-model}
data: {sources: [{name: files, path: notes}], filters: [], held_out: 0.3}
post_training:
  rewards: [{name: jsonl_tasks, path: tasks.jsonl}]
  reject: {prompts: 4, samples: 2, demonstrations: 16, max_tokens: 4, rehearsal: 0}
  sft: {epochs: 1, batch: 16, precision: fp32}
  algorithm: grpo
  prefer: {prompts: 4, samples: 2, max_tokens: 2, batch: 16, precision: fp32, weight_decay: 0}
quantization: []
evaluation: {limit: 4, max_tokens: 4, tasks: [bits_per_byte]}
audit: {margin: 0.9, relative_margin: 0.99, must_improve: []}
logging: [jsonl]
"""


def test_a_stage_that_changes_no_weight_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text(Path("notes"))
    texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
    write_model("my-model", Tokenizer.train(texts, 400, 16), max_seq_len=512)
    rows = [{"prompt": f"Is {n} even?", "answer": "zyxwvutsrqponmlkjihgfedcba"} for n in range(120)]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("none.yaml").write_text(CONFIG)
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main(["run", "none.yaml"])
        told = "".join(capsys.readouterr())
        assert done.value.code == 0, told
        assert " ".join(told.split()).count("prefer-1 learnt nothing: its weights are those that it began with") == 1
        assert "sft-1 learnt nothing" not in told
