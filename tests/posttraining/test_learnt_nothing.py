"""A stage that learns nothing: told where no answer is better than another, refused where no gradient is finite. And a
reward that says nothing, and plugins that leave the working directory and empty what they are given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pages import write_model
from test_recipe import write_text

from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.plugins.registry import discover
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


PLUGIN = '''
import os

from llama3.algorithms import Algorithm, Plan, Term
from llama3.filters import Judgement
from llama3.plugins import AlgorithmSpec, FilterSpec, RewardSpec, hookimpl


class Never(Algorithm):
    plan = Plan(samples=2)

    def prepare(self, batch, services):
        return batch

    def loss(self, scored, batch):
        return {"never": Term(scored.logps_M.sum() * float("nan"), per="target")}


@hookimpl
def llama3_algorithms():
    return [
        AlgorithmSpec(name="never", factory="acme_never:Never", data="dialogs"),
        AlgorithmSpec(name="never_draws", factory="acme_never:Never", data="prompts",
                      needs=frozenset({"rollouts", "reward"})),
    ]


class Mute:
    def score(self, prompts, answers, examples):
        return [(None, float("nan"))[len(answer) % 2] for answer in answers]


class Wanderer:
    """Leaves the folder, and what it is given, as nobody should."""
    features = frozenset()

    def __init__(self):
        os.chdir("/")

    def score(self, prompts, answers, examples):
        scores = [0.0] * len(answers)
        for row in examples:
            row.clear()
        for given in (prompts, answers, examples):
            given.clear()
        os.chdir("/")
        return scores

    def judge(self, batch):
        os.chdir("/")
        return Judgement([1.0] * len(batch), [True] * len(batch), [""] * len(batch))


@hookimpl
def llama3_rewards():
    return [RewardSpec(name="mute", factory="acme_never:Mute"),
            RewardSpec(name="wander", factory="acme_never:Wanderer")]


@hookimpl
def llama3_filters():
    return [FilterSpec(name="wander", factory="acme_never:Wanderer")]
'''


def write_config(config):
    """A model, its text and tasks whose answers it cannot guess, and a config."""
    write_text(Path("notes"))
    texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
    write_model("my-model", Tokenizer.train(texts, 400, 16), max_seq_len=512)
    rows = [{"prompt": f"Is {n} even?", "answer": "zyxwvutsrqponmlkjihgfedcba"} for n in range(120)]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("none.yaml").write_text(config)


@pytest.fixture
def plugin(site):
    site.add("acme-never", PLUGIN, module="acme_never")
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_a_stage_that_changes_no_weight_is_told_and_so_is_a_reward_without_opinion(
    plugin, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    config = CONFIG.replace("rewards: [", "rewards: [wander, mute, ").replace("filters: []", "filters: [wander]")
    write_config(config)
    for times in (2, 0):
        with pytest.raises(SystemExit) as done:
            main(["run", "none.yaml"])
        told = " ".join("".join(capsys.readouterr()).split())
        assert done.value.code == 0, told
        assert told.count("prefer-1 learnt nothing: its weights are those that it began with") == 1
        assert "sft-1 learnt nothing" not in told
        assert len(re.findall(r"rewards mute scored none of \d+ answers \(None or NaN\)", told)) == times, told
    assert Path.cwd() == tmp_path
    run = RunDir(Path("runs/none"))
    assert run.current()["reject-1"].metrics["no_opinion"] == {"mute": 8}
    silent = [row for row in run.rows("events") if row["kind"] == "rewards_without_opinion"]
    assert [row["rewards"] for row in silent] == [["mute"]] * 2


@pytest.mark.parametrize(
    ("stage", "key", "name"),
    [("sft", "post_training.sft.algorithm", "never"), ("prefer", "post_training.algorithm", "never_draws")],
)
def test_an_algorithm_without_a_finite_gradient_fails_its_stage(
    plugin, tmp_path, monkeypatch, capsys, stage, key, name
):
    monkeypatch.chdir(tmp_path)
    write_config(CONFIG)
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main(["run", "none.yaml", "--set", f"{key}={name}"])
        told = " ".join("".join(capsys.readouterr()).split())
        assert done.value.code == 4, told
        assert re.search(rf"algorithms\.{name}: none of \d updates of stage {stage} had a finite gradient", told), told
        assert "L3-TRN-006" in told
    assert f"{stage}-1" not in RunDir(Path("runs/none")).current()
    assert not list(Path("runs/none").rglob("release"))
