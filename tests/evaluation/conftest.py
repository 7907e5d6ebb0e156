"""A small corpus with held-out text, a tokenizer trained on it, and random models."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pydantic import BaseModel

from llama3.artifacts import Artifact, Stage
from llama3.artifacts.run import RunDir
from llama3.checkpoints.weights import save_model
from llama3.config import load as load_config
from llama3.data.corpus import Corpus
from llama3.data.curate import CurateOptions, curate
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.tasks.families import tasks
from llama3.tokenizer import Tokenizer


def write_text(folder: Path, documents: int = 60) -> Path:
    """Files of distinct sentences, enough that a third of them are a held-out text."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "count", "value", "index", "total", "first", "last", "read", "write", "item"]
    folder.mkdir()
    for number in range(documents):
        lines = [" ".join(rng.choice(words) for _ in range(8)) + f" {rng.randrange(1000)}." for _ in range(8)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def text_config(tmp_path_factory):
    """The `data` section of a config over such files."""
    folder = write_text(tmp_path_factory.mktemp("text") / "files")
    source = {"name": "files", "path": str(folder)}
    return {"sources": [source], "filters": [], "held_out": 0.35, "lines": {"enabled": False}}


@pytest.fixture(scope="session")
def corpus(text_config, tmp_path_factory) -> Artifact:
    """The corpus of those files."""
    config = load_config({"data": text_config}).config
    with RunDir(tmp_path_factory.mktemp("corpus") / "run") as run:
        return run.execute(curate, {}, CurateOptions.of(config))


@pytest.fixture(scope="session")
def tokenizer(corpus) -> Tokenizer:
    """Knows the words of the corpus and of the built-in tasks."""
    texts = [text for batch in Corpus(corpus.path).documents("train") for text in batch.texts]
    texts += [f"{task.prompt}\n{task.reference}" for task in tasks("train", 200, seed=0)]
    return Tokenizer.train(texts, vocab_size=512, num_special=16)


@pytest.fixture(scope="session")
def random_model(tokenizer, tmp_path_factory):
    """Makes the directory of a random model of a seed."""

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("model")
        config = ModelConfig(
            dim=32, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=tokenizer.vocab_size, max_seq_len=256
        )
        save_model(init_weights(Transformer(config), seed), folder)
        tokenizer.save(folder)
        return folder

    return make


class Content(BaseModel):
    """What an evaluation made by hand holds."""

    text: str


@pytest.fixture
def run(tmp_path):
    with RunDir(tmp_path / "run") as run:
        yield run


@pytest.fixture
def evaluation(run):
    """Makes an evaluation by hand: suites by name, each a list of rows, or an error."""

    def make(key, suites, better=("text",), conditions=None, stage="evaluate", plugins=(), figures=None):
        def write(options, out):
            results = {
                name: {"error": rows} if isinstance(rows, str) else {"better": "lower" if name in better else "higher"}
                for name, rows in suites.items()
            }
            for name, more in (figures or {}).items():
                results[name] |= more
            lines = [
                json.dumps({"suite": name, **row})
                for name, rows in suites.items()
                if not isinstance(rows, str)
                for row in rows
            ]
            (out.path / "results.json").write_text(json.dumps(results))
            (out.path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
            (out.path / "conditions.json").write_text(json.dumps(conditions or {"corpus": "c"}))

        return run.execute(
            Stage(stage, write, "report"), {}, Content(text=json.dumps([suites, figures])), key=key, plugins=plugins
        )

    return make
