"""Checkpoint artifacts of post-training: weights and tokenizer in Hugging Face's layout, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama3.artifacts.files import write_json_atomic
from llama3.model.transformer import Transformer
from llama3.model.weights import save_model
from llama3.tokenizer import Tokenizer


def save_checkpoint(folder: Path, model: Transformer, tokenizer: Tokenizer, facts: Mapping[str, Any]) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and llama3.json (`facts`) into `folder`."""
    save_model(model, folder)
    tokenizer.save(folder)
    write_json_atomic(folder / "llama3.json", dict(facts))
