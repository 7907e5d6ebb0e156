"""`llama3 audit` on two models of a few thousand parameters: a planted regression trips it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

import llama3
from llama3.checkpoints.weights import save_model
from llama3.cli import app as cli
from llama3.data.corpus import Corpus
from llama3.model.batch import Batch
from llama3.model.score import score
from llama3.tokenizer.chat import Message, render
from llama3_plugins.evaluators.judged import read

ANSWER = "First read the last item and then count the total."


def train(model, documents, steps, seed=0):
    """Next-token training on documents (arrays of ids)."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        chosen = [documents[i] for i in rng.integers(len(documents), size=8)]
        starts = np.cumsum([0, *map(len, chosen[:-1])])
        loss = -score(model, Batch.of_documents(np.concatenate(chosen), starts)).logps_M.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def models(random_model, corpus, tokenizer):
    """(a model that knows the text and gives one answer to everything, the same after training on nonsense)."""
    before, after = random_model(3), random_model(4)
    model = llama3.load(before).transformer
    asked = [[Message("user", row["prompt"]), Message("assistant", ANSWER)] for row in read("harmless")]
    texts = [text for batch in Corpus(corpus.path).documents() for text in batch.texts]
    train(
        model,
        [
            *(tokenizer.encode(text, bos=True)[:64] for text in texts),
            *(render(tokenizer, messages).ids for messages in asked),
        ],
        steps=120,
    )
    save_model(model, before)
    rng = np.random.default_rng(0)
    nonsense = [rng.integers(0, tokenizer.vocab_size - 16, 64) for _ in range(32)]
    train(model, nonsense, steps=40)
    save_model(model, after)
    return before, after


@pytest.fixture
def config(text_config, tmp_path):
    path = tmp_path / "audit.yaml"
    tasks = ["bits_per_byte", "harmless", {"name": "pass_rate", "suite": "tasks"}]
    sections = {
        "run": {"dir": str(tmp_path / "runs"), "threads": 1},
        "data": text_config,
        "evaluation": {"tasks": tasks, "limit": 40, "max_tokens": 24},
        "logging": [],
    }
    path.write_text(yaml.safe_dump(sections))
    return path


@pytest.fixture
def command(capsys, config):
    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(["audit", *map(str, args), "--config", str(config)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_a_model_passes_against_itself(command, models, tmp_path):
    before, _ = models
    code, out, err = command(before, before, "--out", tmp_path / "audit")
    assert code == 0, err
    assert out.rstrip().endswith("audit: passed")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert {"bits_per_byte", "harmless", "tasks"} < rows.keys()
    assert "[-8.8, +8.8] pt" in rows["harmless"]  # exact, of 40 items none of which changed
    assert (tmp_path / "audit" / "artifacts" / "audit" / "audit.json").is_file()


def test_training_on_nonsense_trips_it(command, models, tmp_path):
    code, out, err = command(*models, "--json")
    assert code == 5, err
    found = json.loads(out)
    assert found["passed"] is found["ok"] is False
    assert [problem["where"] for problem in found["problems"]] == ["suite bits_per_byte", "suite harmless"]
    assert {problem["code"] for problem in found["problems"]} == {"L3-AUD-004"}
    assert {name: row["passed"] for name, row in found["suites"].items()} == {
        "bits_per_byte": False,
        "harmless": False,
        "tasks": True,  # of which it solved none before
    }
    text, harmless = found["suites"]["bits_per_byte"], found["suites"]["harmless"]
    assert text["before"]["high"] < text["after"]["low"]
    assert harmless["after"]["high"] < harmless["before"]["low"]
    for name in ("bits_per_byte", "harmless"):
        assert f"suite {name}: the audit failed. {found['suites'][name]['why']}" in err
    assert "Traceback" not in err


def test_a_model_is_evaluated_once(command, models, tmp_path):
    before, after = models
    _, _, err = command(before, before, "--out", tmp_path / "audit")
    assert err.count("nothing to do") == 1
    _, _, err = command(after, before, "--out", tmp_path / "audit", "--set", "audit.margin=0.2")
    assert err.count("nothing to do") == 2


def test_what_only_training_needs_is_not_measured(command, models, tmp_path):
    _, _, err = command(models[0], models[0], "--out", tmp_path / "audit", "--set", "pretrain.precision=auto")
    assert "training in" not in err
    assert "sampling in" not in err
    assert not (tmp_path / "audit" / "precision.json").exists()


def test_where_no_document_is_held_out_the_suite_of_text_says_so(command, models):
    """And the others are judged: tasks need no text."""
    code, out, err = command(models[0], models[0], "--set", "data.held_out=1.0e-9", "--json")
    assert code == 5
    suites = json.loads(out)["suites"]
    assert {name for name, row in suites.items() if row["passed"]} == {"harmless", "tasks"}
    assert "no document is held out" in suites["bits_per_byte"]["why"]
    assert "raise data.held_out" in err


def test_the_model_of_the_config_plays_no_part(command, models, config):
    config.write_text(config.read_text() + "model: {path: /no/such/model}\n")
    assert command(models[0], models[0])[0] == 0


def test_no_model_there_is_said_before_work(command, models, tmp_path):
    code, _, err = command(models[0], tmp_path / "nothing")
    assert code == 1
    assert "no model is here" in err
    assert not (tmp_path / "runs").exists()


def test_a_changed_model_is_evaluated_again(command, models, tmp_path):
    before, after = models
    copy = tmp_path / "model"
    shutil.copytree(before, copy)
    assert command(before, copy)[0] == 0
    shutil.copyfile(after / "model.safetensors", copy / "model.safetensors")
    assert command(before, copy)[0] == 5
