"""The network: one Llama 3 transformer for training, scoring and serving.

`Batch` (batch.py) is what the model sees: a packed forest of segments. `Transformer` (transformer.py) turns it into
hidden states, `score` (score.py) turns those into log-probabilities, build.py makes new models, and config.py
(torch-free) holds the architecture and the presets. Files of weights are the business of `llama3.checkpoints`.
Importing this package does not import torch; the names below do, when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.model.batch import Batch, Segment, Tree
    from llama3.model.build import init_weights
    from llama3.model.config import ModelConfig
    from llama3.model.score import Scored
    from llama3.model.transformer import Transformer

__all__ = ["Batch", "ModelConfig", "Scored", "Segment", "Transformer", "Tree", "init_weights"]

_HOMES = {
    "Batch": "llama3.model.batch",
    "Segment": "llama3.model.batch",
    "Tree": "llama3.model.batch",
    "init_weights": "llama3.model.build",
    "ModelConfig": "llama3.model.config",
    "Scored": "llama3.model.score",
    "Transformer": "llama3.model.transformer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
