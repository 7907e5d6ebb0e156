"""The door to weights of any layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama3.checkpoints.gguf import GgufWeights
from llama3.checkpoints.gguf_file import read_gguf
from llama3.checkpoints.hf import HfWeights, read_raw_config
from llama3.checkpoints.layouts import Layout, layout_of
from llama3.checkpoints.meta import MetaWeights
from llama3.checkpoints.quantized import QuantizedWeights
from llama3.checkpoints.source import WeightSource
from llama3.tokenizer import Tokenizer


def open_weights(path: str | Path) -> WeightSource:
    """The model at `path`, of any layout. Raises CheckpointError; PluginError where a GGUF file needs a package."""
    layout, path = layout_of(path), Path(path)
    if is_quantized(path):
        return QuantizedWeights(path)
    opened: Mapping[Layout, Any] = {"hf": HfWeights, "meta": MetaWeights, "gguf": GgufWeights}
    source: WeightSource = opened[layout](path)
    return source


def is_quantized(path: str | Path) -> bool:
    """Whether the model at `path` is kept by one of our own quantization schemes. Raises CheckpointError."""
    return layout_of(path) == "hf" and "quantization" in read_raw_config(Path(path))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that belongs to the model at `path`, of any layout. Raises DataError, CheckpointError."""
    if layout_of(path) == "gguf":
        return Tokenizer.from_gguf(read_gguf(path).metadata, str(path))
    return Tokenizer.load(path)
