"""Encoders of Hugging Face (BERT, RoBERTa and their kind) from a folder on this machine: to classify texts, or to embed
them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from llama3.errors import ConfigError

NO_LIBRARY = ConfigError.declare(
    "L3-CLS-040",
    "an encoder needs a library that is not installed",
    why="{error}",
    fix="pip install 'llama3[encoder]', or leave the encoder out",
)
NO_ENCODER = ConfigError.declare(
    "L3-CLS-041",
    "there is no {what} here",
    why="{error}",
    fix="give a folder with config.json, a tokenizer and model.safetensors",
)

BATCH_TOKENS = 8192
"""Of a batch, padding included."""
_CLASSES = {"sequence classifier": "AutoModelForSequenceClassification", "encoder": "AutoModel"}


def load_encoder(folder: str, what: Literal["sequence classifier", "encoder"]) -> tuple[Any, Any]:
    """Tokenizer and model of a folder, from it alone, safetensors only. Raises ConfigError (L3-CLS-040, 041)."""
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise NO_LIBRARY("encoder", error=error) from error
    if not Path(folder).is_dir():
        raise NO_ENCODER(folder, what=what, error="no such folder")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, **local)
        model = getattr(library, _CLASSES[what]).from_pretrained(folder, use_safetensors=True, **local)
    except Exception as error:  # of a library that reads somebody's files
        raise NO_ENCODER(folder, what=what, error=f"{type(error).__name__}: {error}") from error
    return tokenizer, model.eval()


def token_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts, those of about one length together, each batch within BATCH_TOKENS when it is padded."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        longest = lengths[found[-1][0]] if found else 0
        if not found or longest * (len(found[-1]) + 1) > BATCH_TOKENS:
            found.append([])
        found[-1].append(place)
    return found


def encoder_hash(folder: str) -> str:
    """Of the files of a folder and their names."""
    told = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        told.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
    return told.hexdigest()
