"""The stage `average`: the weighted mean of checkpoints (paper 4.1.5). Accumulated in fp32, cast once.

With the model that they were trained from among them, the mean keeps most of what it could do and most of what was
learnt (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.checkpoints.load import load_model
from llama3.config.schema import Config
from llama3.errors import CheckpointError, ConfigError
from llama3.model.transformer import Transformer
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

OTHER_ARCHITECTURE = CheckpointError.declare("L3-AVG-001", "the checkpoints differ in their architecture")
OTHER_TOKENIZER = CheckpointError.declare("L3-AVG-002", "its tokenizer is not that of {first}")
NO_WEIGHTS = ConfigError.declare(
    "L3-AVG-003",
    "[{weights}] are no weights for {models} models",
    fix="give one number of at least 0 per model, not all 0",
)


class AverageOptions(BaseModel):
    """Weights of `a`, `b` and, where it takes part, `base`; they are divided by their sum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: tuple[float, ...] = (0.5, 0.5)

    @classmethod
    def of(cls, config: Config) -> AverageOptions:
        """From the whole config: the weights of the sft and of the preference checkpoint, and of their base."""
        return cls(weights=tuple(config.post_training.average))


@stage(output="checkpoint")
def average(
    a: Checkpoint, b: Checkpoint, base: Checkpoint | None = None, *, options: AverageOptions, out: StageOutput
) -> None:
    """Write the mean of the checkpoints. Raises CheckpointError when they do not fit together."""
    folders = [checkpoint.path for checkpoint in (a, b, base) if checkpoint is not None]
    tokenizers = [Tokenizer.load(folder) for folder in folders]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        if tokenizer.hash != tokenizers[0].hash:
            raise OTHER_TOKENIZER(folder, first=folders[0])
    models = [load_model(folder) for folder in folders]
    mean = average_models(models, options.weights)
    save_checkpoint(out.path, PlacedModel(mean), tokenizers[0], {"stage": "average", "weights": list(options.weights)})
    out.metrics["distance"] = round(_distance(models[0], models[1]), 6)


def average_models(models: Sequence[Transformer], weights: Sequence[float]) -> Transformer:
    """The first model with its weights replaced by the weighted mean of all."""
    if len(weights) != len(models) or min(weights) < 0 or sum(weights) <= 0:
        raise NO_WEIGHTS("post_training.average", weights=list(weights), models=len(models))
    if any(model.config != models[0].config for model in models):
        raise OTHER_ARCHITECTURE("average")
    states = [model.state_dict() for model in models]
    mean = {name: weighted_mean([state[name] for state in states], weights) for name in states[0]}
    result = Transformer(models[0].config)
    result.load_state_dict(mean)
    return result


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum(w x) / sum(w), accumulated in fp32 and cast to the first tensor's type once."""
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.float(), alpha=weight / sum(weights))
    return total.to(tensors[0].dtype)


@torch.no_grad()
def _distance(a: Transformer, b: Transformer) -> float:
    """Root mean square difference of the two models' weights."""
    squares = [((x - y) ** 2).sum() for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    return float((torch.stack(squares).sum() / sum(x.numel() for x in a.parameters())).sqrt())
