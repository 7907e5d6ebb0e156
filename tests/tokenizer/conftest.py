"""The real Llama 3 vocabulary, where the `llama-models` package is installed, and its reference encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sysconfig
from pathlib import Path

import pytest

from llama3.tokenizer import Tokenizer
from llama3.tokenizer.special import SPECIAL_TOKENS

# Meta's split rule, written out here so that the tests do not take the product's word for it.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"

# Members of every class and the code points on which implementations differ.
EDGES = [
    *"aZsStTrReEvVmMlLdD019 \t\n\r\v\f'!._-/\\\"#{}()<>|",
    *"\u017f\u0130\u0131\u212a\xa0\x85\u1680\u180e\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u3000\ufeff",
    *"½²Ⅷ٣০一〇\u0301\u0308\u093f\u0e31中文字かな한국ñéßЖאعह\U00010400\U0001f600\U0001f468\U0001f3fd\U000e0101",
    *"\x00\x1b\x1c\x1d\x1e\x1f\x7f\ufffd\ufffe\uffff\U0010ffff\ue000",
    *["  ", "\r\n", "\n\n", "'s", "'LL", "'re", " the", "ing", "1234567", "===", "\u200d\u2642\ufe0f"],
]


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
