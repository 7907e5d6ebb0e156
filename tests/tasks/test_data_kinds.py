"""A third party's kind of data: its columns in `post_training.data` train its algorithm, as built-in kinds do."""

from __future__ import annotations

import json

import pytest
import yaml
from test_recipe import write_config, write_text

from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.errors import ConfigError, PluginError
from llama3.plugins.registry import discover
from llama3.preflight import load_config
from llama3.tasks.rows import read_rows
from llama3.testing import AlgorithmConformance, DataKindConformance

PLUGIN = """
from llama3.plugins import AlgorithmSpec, DataKindSpec, hookimpl

@hookimpl
def llama3_data_kinds():
    stored = {"artifact": "preferences", "file": "steps.jsonl"}
    return [DataKindSpec(name="step_labels", factory="steps_kind:StepLabels", **stored)]

@hookimpl
def llama3_algorithms():
    return [AlgorithmSpec(name="good_steps", factory="steps_algorithm:GoodSteps", data="step_labels")]
"""
KIND = """
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama3.errors import DataError, Problem
from llama3.posttraining.examples import prompt_ids
from llama3.tasks.data_kind import DataKind, UserRow
from llama3.tasks.user_rows import read_answer, read_prompt


@dataclass
class StepsExample:
    prompt: np.ndarray
    steps: list[np.ndarray]
    labels: list[bool]

    @property
    def num_tokens(self):
        return len(self.prompt) + sum(map(len, self.steps))


class StepLabels(DataKind[StepsExample]):
    required = (("prompt", "completions", "labels"),)

    @property
    def stored(self):
        return {"step_labels": self.rows}

    def rows(self, rows, stem):
        for row in rows:
            yield {"id": row.id, "messages": list(row.prompt), "steps": row.answers, "labels": row.columns["labels"]}

    def parse(self, row, where):
        if len(row["completions"]) != len(row["labels"]):
            raise DataError(Problem("ACME-001", where, "not one label per step", fix="label every step"))
        steps = [read_answer(step, where, f"completions[{i}]") for i, step in enumerate(row["completions"])]
        return UserRow(read_prompt(row, where), tuple(steps), {"labels": row["labels"]})

    def example(self, tokenizer, row, where):
        steps = [tokenizer.encode(step) for step in row["steps"]]
        return StepsExample(prompt_ids(tokenizer, row["messages"], where), steps, row["labels"])

    def collate(self, examples):
        from llama3.model.batch import Batch, Segment, Tree

        return Batch.of_trees([
            Tree([Segment(example.prompt, per_segment={"good": 0}), *(
                Segment(step, parent=i, is_target=True, per_segment={"good": label})
                for i, (step, label) in enumerate(zip(example.steps, example.labels, strict=True))
            )])
            for example in examples
        ])

    def toy(self, rng):
        from llama3.testing.toys import toy_ids

        return StepsExample(toy_ids(rng), [toy_ids(rng) for _ in range(3)], [True, True, False])
"""
ALGORITHM = """
from llama3.training.algorithm import Algorithm, Term


class GoodSteps(Algorithm):
    def loss(self, scored, batch):
        good_M = batch.per_segment["good"][batch.segment_M] > 0
        return {"nll": Term(-scored.logps_M[good_M].sum(), per="target")}
"""
ROWS = [
    {
        "prompt": f"What is {i} plus {i} plus 1?",
        "completions": [f"{2 * i}", f"{2 * i + 1}"],
        "labels": [True, i % 2 == 0],
    }
    for i in range(8)
]


@pytest.fixture
def steps(site):
    """The test distribution, installed."""
    site.add("llama3-steps", PLUGIN, module="steps_plugin")
    (site.path / "steps_kind.py").write_text(KIND)
    (site.path / "steps_algorithm.py").write_text(ALGORITHM)
    discover.cache_clear()
    yield site
    discover.cache_clear()


@pytest.fixture
def run(steps, tmp_path):
    """Run `llama3 run` on rows; returns the exit code and the run's directory."""
    write_text(tmp_path / "text")
    config = yaml.safe_load(write_config(tmp_path).read_text())
    config["post_training"] |= {
        "algorithm": "good_steps",
        "data": str(tmp_path / "mine.jsonl"),
        "rewards": ["verifiable"],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))

    def execute(rows):
        (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(SystemExit) as stopped:
            main(["run", str(tmp_path / "small.yaml")])
        return int(stopped.value.code or 0), tmp_path / "runs" / "small"

    return execute


def test_rows_with_its_columns_train_its_algorithm(run):
    code, folder = run([*({"split": "train", **row} for row in ROWS), {"split": "held_out", **ROWS[0], "prompt": "1?"}])
    assert code == 0
    made = RunDir(folder).current()
    assert made["own_data"].type == "preferences"
    assert made["own_data"].metrics["kind"] == "step_labels"
    rows = list(read_rows(made["own_data"].file("steps.jsonl")))
    assert [(row["steps"], row["labels"]) for row in rows] == [(row["completions"], row["labels"]) for row in ROWS]
    assert made["prefer"].metrics["examples"] == len(ROWS)
    assert made["prefer"].metrics["loss"] > 0


def test_its_rows_are_checked_before_the_run(run, capsys):
    code, folder = run([ROWS[0], {**ROWS[1], "labels": [True]}])
    assert code == 2
    assert "mine.jsonl:2: not one label per step" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("None", "`stored['step_labels']` cannot be used. of one row it is None, not a dict"),
        ("{'id': row.id, 'steps': {1}}", "`stored['step_labels']` cannot be used. of one row it is not of JSON values"),
        (
            "{'id': row.id, 'odd': 1}",
            "`stored['step_labels']` cannot be used. row 1 (mine-1): the field 'steps' is missing",
        ),
    ],
)
def test_rows_that_it_writes_and_are_none_are_its_fault(steps, run, capsys, gives, said):
    kind = KIND.replace("yield {", f"yield {gives}\n            continue\n            yield {{")
    (steps.path / "steps_kind.py").write_text(kind)
    code, _ = run([{"split": "train", **row} for row in ROWS])
    told = capsys.readouterr().err
    assert (code, "data_kinds.step_labels" in told, said in told) == (4, True, True), told


def test_its_held_out_tasks_are_looked_for_in_its_rows(run, capsys):
    """The gate that no release passes reads every kind of data."""
    from llama3_plugins.rewards.verifiable import Verifiable, VerifiableOptions

    (task, *_) = Verifiable(VerifiableOptions()).tasks("held_out", 8, 1)
    code, _ = run([{"split": "train", **ROWS[0], "prompt": task.prompt}])
    assert code == 5
    assert "this held-out task is among the training data" in capsys.readouterr().err


def test_data_that_no_round_makes_must_be_given(steps):
    with pytest.raises(ConfigError, match=r"learns from step_labels, which no round makes.*data: step_labels.jsonl"):
        load_config({"post_training": {"algorithm": "good_steps"}})


def test_other_rows_do_not_fit(steps, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "?", "chosen": "1", "rejected": "2"}) + "\n")
    with pytest.raises(ConfigError, match="it needs the columns prompt and completions and labels"):
        load_config({"post_training": {"algorithm": "good_steps", "data": str(path)}})


def test_a_kind_that_cannot_be_imported_is_named(site, tmp_path):
    site.add("llama3-steps", PLUGIN, module="steps_plugin")
    (site.path / "steps_kind.py").write_text("import nowhere_to_be_found\n")
    discover.cache_clear()
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "?", "completion": "1"}) + "\n")
    with pytest.raises(PluginError, match=r"llama3-steps:step_labels 1\.0.*pip install nowhere-to-be-found"):
        load_config({"post_training": {"data": str(path)}})
    discover.cache_clear()


@pytest.mark.usefixtures("steps")
class TestStepLabels(DataKindConformance):
    plugin = "step_labels"

    def test_rows_are_checked_without_torch(self):
        pytest.skip("a subprocess does not see the test's distribution")

    test_listing_and_checking_options_needs_no_torch = test_rows_are_checked_without_torch


@pytest.mark.usefixtures("steps")
class TestGoodSteps(AlgorithmConformance):
    plugin = "good_steps"

    def test_listing_and_checking_options_needs_no_torch(self):
        pytest.skip("a subprocess does not see the test's distribution")
