"""A tiny model and artifacts around it, for the tests of post-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact, Stage
from llama3.artifacts.run import RunDir
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint


def tiny_model(tokenizer: Tokenizer, dim: int = 64, seed: int = 1) -> Transformer:
    config = ModelConfig(
        dim=dim, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=2 * dim, vocab_size=tokenizer.vocab_size,
        max_seq_len=256, rope_theta=10000.0, tied=True,
    )  # fmt: skip
    return init_weights(Transformer(config), seed=seed)


def put(run: RunDir, kind: str, key: str, write: Any) -> Artifact:
    """An artifact of `kind` whose payload `write(folder)` makes."""
    return run.execute(Stage(key, lambda out: write(out.path), kind), {}, key=key)


def put_checkpoint(run: RunDir, model: Transformer, tokenizer: Tokenizer, key: str = "base") -> Artifact:
    """A checkpoint artifact."""
    return put(run, "checkpoint", key, lambda folder: save_checkpoint(Path(folder), PlacedModel(model), tokenizer, {}))
