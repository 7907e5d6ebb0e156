"""The real 135M model, taught by the third-party algorithm of `examples/` and released: transformers reads the release
and says the same words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from model_files import QUESTIONS, real_gguf
from peers import answers_as_transformers
from test_recipe import write_text

import llama3
from llama3.inference import Llama, Sampling
from llama3.plugins.registry import discover
from llama3.tokenizer import Message, render

pytestmark = [pytest.mark.real, pytest.mark.slow]

ACME = Path(__file__).parents[2] / "examples" / "llama3-acme"
RUDE = "No."
LEARNT = "With pleasure: "


@pytest.fixture
def acme(site, monkeypatch):
    """The example as installed: on the path, found by its entry point, and nothing of this project edited."""
    site.add("llama3-acme", version="0.1")
    monkeypatch.syspath_prepend(str(ACME))
    discover.cache_clear()
    yield
    discover.cache_clear()


def write_config(folder: Path) -> Path:
    """A short run on pairs that prefer answers of one beginning."""
    write_text(folder / "text")
    pairs = [{"prompt": question, "chosen": f"{LEARNT}{question.lower()}", "rejected": RUDE} for question in QUESTIONS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = {
        "extends": "adopt",
        "run": {"name": "real", "dir": str(folder / "runs")},
        "model": {"path": str(real_gguf())},
        "data": {"sources": [{"name": "files", "path": str(folder / "text")}], "filters": [], "held_out": 0.3},
        "post_training": {
            "algorithm": {"name": "simpo"},
            "data": str(folder / "pairs.jsonl"),
            "prefer": {"batch": 8, "lr": 2e-5, "warmup": 1, "log_every": 1},
        },
        "evaluation": {"tasks": [{"name": "harmless", "limit": 12}]},
        "audit": {"margin": 0.9, "must_improve": []},
    }
    path = folder / "real.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_transformers_says_the_same_words_with_the_release(acme, tmp_path):
    run = llama3.run(write_config(tmp_path))
    assert run.artifacts["prefer"].metrics["examples"] > 15
    answers = answers_as_transformers(run.artifacts["release"].path, QUESTIONS, max_tokens=16)
    released = Llama.load(real_gguf())
    prompts = [
        render(released.tokenizer, [Message("user", question)], generation_prompt=True).ids for question in QUESTIONS
    ]
    sampling = Sampling(16, 0.0, stop_ids=released.tokenizer.stop_ids)
    assert answers != [answer.ids for (answer,) in released.engine.generate(prompts, sampling)], "nothing was learnt"
