"""A tiny model, and a labeller behind real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from labelled_dialogs import Answers, Chosen, config_of
from pages import write_model
from test_recipe import write_text

from llama3.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def labeller() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.seen, made.most = [], 10**9
    made.url = f"http://127.0.0.1:{made.server_address[1]}/v1"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A folder with a model and notes."""
    folder = tmp_path_factory.mktemp("quality")
    write_text(folder / "notes")
    write_model(
        str(folder / "my-model"),
        Tokenizer.train([p.read_text() for p in sorted((folder / "notes").iterdir())], 400, 16),
    )
    return folder


@pytest.fixture
def choose(home, tmp_path) -> Callable[..., Chosen]:
    """What is chosen of rows by a section `post_training.quality`."""
    return lambda rows, section, name="q": Chosen(config_of(home, tmp_path, rows, section, name))
