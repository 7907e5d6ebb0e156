"""The real Llama 3 vocabulary, where the `llama-models` package is installed, and its reference encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sysconfig
from pathlib import Path

import pytest
from edges import EDGES, PATTERN

from llama3.tokenizer import Tokenizer
from llama3.tokenizer.special import SPECIAL_TOKENS

SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"


@pytest.fixture(scope="session")
def llama3_model():
    spec = importlib.util.find_spec("llama_models")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "llama3" / "tokenizer.model"
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
            return path
    pytest.skip("the real Llama 3 tokenizer.model is not installed (package llama-models)")


@pytest.fixture(scope="session")
def llama3(llama3_model):
    return Tokenizer.load(llama3_model)


@pytest.fixture(scope="session")
def reference(llama3_model):
    """tiktoken with Meta's rule, vocabulary and special tokens."""
    tiktoken = pytest.importorskip("tiktoken")
    load = pytest.importorskip("tiktoken.load")
    ranks = load.load_tiktoken_bpe(str(llama3_model))
    special = {name: len(ranks) + offset for offset, name in enumerate(SPECIAL_TOKENS)}
    return tiktoken.Encoding("llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="session")
def stdlib_texts():
    """About 4 MB of this Python's own sources, one file in ten."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    files = [path for path in files if "site-packages" not in path.parts][::10]
    texts = []
    for path in files:
        try:
            texts.append(path.read_text("utf-8"))
        except UnicodeDecodeError:
            continue
        if sum(map(len, texts)) > 4_000_000:
            break
    return texts


@pytest.fixture
def edge_text():
    """Random strings over EDGES."""

    def make(seed, length=24):
        rng = random.Random(seed)
        return "".join(rng.choice(EDGES) for _ in range(rng.randrange(1, length)))

    return make
