"""A toy model and corpus for the training tests, importable from their child processes as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llama3.config.schema import OptimizerSection
from llama3.model.batch import Batch
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.training.schedule import RateCurve, Schedule

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, ffn_dim=64, vocab_size=61, tied=True)
"""The vocabulary is odd, so that it divides by no number of ranks."""


def toy_model(seed: int = 0) -> Transformer:
    model = Transformer(CONFIG)
    init_weights(model, seed)
    return model


class Counting:
    """Rows of documents that count upwards in steps of 1 to 3 from a random start: easy to learn, never equal."""

    def __init__(self, rows: int = 8, length: int = 24) -> None:
        self.rows, self.length = rows, length

    def examples(self, step: int) -> Sequence[Batch]:
        return [self._row(np.random.default_rng((7, step, row))) for row in range(self.rows)]

    def _row(self, rng: np.random.Generator) -> Batch:
        border = int(rng.integers(4, self.length - 4))
        documents = [
            (rng.integers(CONFIG.vocab_size) + rng.integers(1, 4) * np.arange(n)) % CONFIG.vocab_size
            for n in (border, self.length - border)
        ]
        return Batch.of_documents(np.concatenate(documents), [0, border])


def options(**changes: object) -> OptimizerSection:
    values = {"lr": 1e-2, "warmup": 2, "precision": "fp32", "log_every": 1, "checkpoint_every": 4}
    return OptimizerSection.model_validate(values | changes)


def schedule(section: OptimizerSection, steps: int, anneal: int = 0) -> Schedule:
    """A cosine with warm-up, then a line to 0."""
    cosine = RateCurve(steps, section.lr, section.final_lr, section.warmup)
    return Schedule([cosine, *([RateCurve(anneal, cosine.end, 0.0, shape="linear")] if anneal else [])])


class Recorder:
    """A logger that keeps what it was told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def open(self, directory: object, stage: str) -> None: ...

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def sample(self, step: int, texts: object) -> None: ...

    def close(self) -> None: ...

    def column(self, name: str) -> list[float]:
        return [metrics[name] for _, metrics in self.rows]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
