"""A tokenizer that knows the tasks, and an empty run directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llama3.artifacts.run import RunDir
from llama3.tasks.families import tasks
from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Trained on the tasks themselves, so that their words are few tokens."""
    texts = [f"{task.prompt}\n{task.reference}" for task in tasks("train", 2000, seed=0)]
    return Tokenizer.train(texts, vocab_size=512, num_special=16)


@pytest.fixture
def run(tmp_path) -> Iterator[RunDir]:
    with RunDir(tmp_path / "run") as run:
        yield run
