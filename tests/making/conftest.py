"""A tiny model with its notes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import write_model
from test_recipe import write_text

from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("skills")
    write_text(folder / "notes")
    texts = [path.read_text() for path in sorted((folder / "notes").iterdir())]
    write_model(str(folder / "my-model"), Tokenizer.train(texts, 400, 16), max_seq_len=512)
    return folder
