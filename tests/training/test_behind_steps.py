"""The documents behind a step, and data that is left out when a run goes on: by the run's own files and record."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from test_pretrain import config, inputs  # noqa: F401

from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import load_model
from llama3.cli import main
from llama3.errors import ArtifactError, ConfigError, DataError
from llama3.training import loop
from llama3.training.behind_steps import StepReader
from llama3.training.ledger import data_step
from llama3.training.pretrain import PretrainOptions, TokenDataset, pretrain

STEPS = 16
"""Of both phases."""


def train(folder, inputs, stop=None):  # noqa: F811
    """A training that dies before step `stop` (0-based)."""
    options = PretrainOptions.of(config())
    with pytest.MonkeyPatch.context() as patch, RunDir(folder) as run:
        real = loop.Trainer.step

        def step(self, data):
            if self.progress.step == stop:
                raise RuntimeError("power cut")
            return real(self, data)

        patch.setattr(loop.Trainer, "step", step)
        return run.execute(pretrain, inputs, options)


@pytest.fixture(scope="module")
def dead(tmp_path_factory, inputs):  # noqa: F811
    """A run that died before its 14th step, with checkpoints of 5 and 10."""
    folder = tmp_path_factory.mktemp("dead") / "run"
    with RunDir(folder):
        pass
    (folder / "artifacts" / "shard").symlink_to(inputs["shards"].location)
    (folder / "artifacts" / "tokenizer").symlink_to(inputs["tokenizer"].location)
    with pytest.raises(RuntimeError):
        train(folder, inputs, stop=13)
    return folder


@pytest.fixture
def died(dead, tmp_path):
    """A copy of it."""
    return shutil.copytree(dead, tmp_path / "run", symlinks=True)


def weights(artifact):
    return {name: x.detach().clone() for name, x in load_model(artifact.path).state_dict().items()}


def test_a_step_is_shown_with_its_documents_and_proved(died):
    reader = StepReader(died, "pretrain")
    told = reader.behind(7, 40)
    assert (told["step"], told["data"], told["proof"]) == (7, 7, "equal")
    read = reader.dataset.read(6)
    assert [sum(part["tokens"] for part in row["parts"]) for row in told["rows"]] == [read.tokens.shape[1]] * len(read)
    ids = [part["id"] for row in told["rows"] for part in row["parts"]]
    assert ids == [f"{number:016x}" for number in read.doc_ids.tolist()]
    texts = " ".join(part["text"] for row in told["rows"] for part in row["parts"])
    assert "cat sat" in texts or "return x" in texts
    assert reader.behind(15, 0)["proof"] == "none", "not done yet"
    assert 7 in reader.steps_of(ids[0])
    for step in reader.steps_of(ids[0]):
        assert ids[0] in [part["id"] for row in reader.behind(step, 0)["rows"] for part in row["parts"]]


def test_shards_of_a_size_of_a_herd_are_found(died):
    (died / "artifacts" / "shard").rename(died / "artifacts" / "big-shard")
    (died / "artifacts" / "tokenizer").rename(died / "artifacts" / "big-tokenizer")
    told = StepReader(died, "pretrain").behind(7, 40)
    assert told["proof"] == "equal"
    assert any(part["text"] for row in told["rows"] for part in row["parts"])


def test_other_tokens_than_those_learnt_are_told(died, monkeypatch):
    reader = StepReader(died, "pretrain")
    monkeypatch.setattr(TokenDataset, "read", lambda self, step: self.loader.rows(step, len(self.rows(step))))
    assert reader.behind(7, 0)["proof"] == "differs"


def test_what_is_left_out_is_as_if_it_had_never_been_there(died, inputs, tmp_path):  # noqa: F811
    before = StepReader(died, "pretrain").behind(12, 0)
    told = StepReader(died, "pretrain").leave_out([12, 13], "a bad page")
    assert (told["from_step"], told["data"]) == (10, [12, 13])
    left = train(died, inputs)
    assert left.metrics["left_out"] == [12, 13]
    after = StepReader(died, "pretrain").behind(12, 0)
    assert (after["data"], after["proof"]) == (14, "equal")
    assert after["content"] != before["content"]

    examples = TokenDataset.examples
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenDataset, "examples", lambda self, step: examples(self, data_step(step, [11, 12])))
        clean = train(tmp_path / "clean", inputs)
    for name, weight in weights(clean).items():
        assert torch.equal(weight, weights(left)[name]), name


def test_killed_after_it_was_told_it_leaves_out_the_same(died, inputs, tmp_path):  # noqa: F811
    StepReader(died, "pretrain").leave_out([7], "once")
    with pytest.raises(RuntimeError):
        train(died, inputs, stop=8)
    with pytest.raises(RuntimeError):
        train(died, inputs, stop=12)
    StepReader(died, "pretrain").leave_out([14], "not read yet")
    made = train(died, inputs)
    assert made.metrics["left_out"] == [7, 15], "step 14 would have read the data of 15"
    rows = [json.loads(line) for line in (died / "reliability" / "ledger.jsonl").read_text().splitlines()]
    named = {row["data"]: row["documents"] for row in rows if row["kind"] == "left_out"}
    assert set(named) == {6, 14}
    assert all(named.values())


def test_what_cannot_be_left_out_is_refused_and_nothing_is_written(died, inputs):  # noqa: F811
    reader = StepReader(died, "pretrain")
    with pytest.raises(DataError, match=r"those of steps: 5, 10.*L3-DAT-246"):
        reader.leave_out([3, 4], "too early")
    with pytest.raises(ConfigError, match="L3-DAT-243"):
        reader.leave_out([STEPS + 1], "too late")
    with pytest.raises(ConfigError, match="L3-DAT-243"):
        reader.behind(0, 0)
    with pytest.raises(ConfigError, match="L3-DAT-244"):
        reader.steps_of("no id at all, really")
    with pytest.raises(ArtifactError, match=r"those that have: pretrain.*L3-DAT-241"):
        StepReader(died, "extend")
    with RunDir(died), pytest.raises(ArtifactError, match="L3-RUN-001"):
        reader.leave_out([12], "while it works")
    assert not (died / "reliability" / "leave_out.jsonl").exists()
    train(died, inputs)
    with pytest.raises(ConfigError, match="L3-DAT-245"):
        StepReader(died, "pretrain").leave_out([15], "finished")


def test_shards_that_are_gone_are_told(died):
    (died / "artifacts" / "shard").unlink()
    with pytest.raises(ArtifactError, match="L3-DAT-242"):
        StepReader(died, "pretrain")


def test_the_commands(died, capsys):
    def call(*args):
        with pytest.raises(SystemExit) as done:
            main(["data", *map(str, args)])
        return int(done.value.code or 0), capsys.readouterr()

    code, told = call("audit", died, "--step", 3)
    assert code == 0
    assert "equal to what the run wrote down" in told.out
    code, told = call("audit", died, "--step", 3, "--json")
    document = json.loads(told.out)["rows"][0]["parts"][0]["id"]
    code, told = call("audit", died, "--document", document, "--json")
    assert 3 in json.loads(told.out)["steps"]
    code, told = call("skip", died, "--steps", "12-13", "--why", "a bad page")
    assert (code, "after step 10" in told.out) == (0, True)
    (row,) = [json.loads(line) for line in (died / "reliability" / "leave_out.jsonl").read_text().splitlines()]
    assert (row["data"], row["why"]) == ([11, 12], "a bad page")
    assert np.array_equal(StepReader(died, "pretrain").data_of(12), 11), "nothing changes before the run goes on"
