"""The stage `average`: the weighted mean of checkpoints (paper 4.1.5). Accumulated in fp32, cast once.

With the model that they were trained from among them, the mean keeps most of what it could do and most of what was
learnt (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.load import check_shapes, read_parameter
from llama3.checkpoints.source import WeightSource
from llama3.checkpoints.weights import write_model
from llama3.config.schema import Config
from llama3.errors import CheckpointError, ConfigError
from llama3.foreign import UnusableFile, read_json
from llama3.model.build import empty_model
from llama3.tokenizer import Tokenizer

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
    """Write the mean of the checkpoints, with one tensor of each in memory.

    Raises CheckpointError when they do not fit together, ConfigError for weights that are none.
    """
    folders = [checkpoint.path for checkpoint in (a, b, base) if checkpoint is not None]
    tokenizers = [Tokenizer.load(folder) for folder in folders]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        if tokenizer.hash != tokenizers[0].hash:
            raise OTHER_TOKENIZER(folder, first=folders[0])
    first = open_weights(folders[0])
    ids = stated_ids(first, tokenizers[0])
    out.metrics["distance"] = round(average_checkpoints(folders, options.weights, out.path, ids), 6)
    write_companions(first, tokenizers[0], out.path)
    facts = {"stage": "average", "weights": list(options.weights), **_algorithm(folders)}
    write_json_atomic(out.path / "llama3.json", facts)


def _algorithm(folders: Sequence[Path]) -> dict[str, Any]:
    """What trained the checkpoints, where it is the same of all: a mean of reward models scores as they do."""
    told = [_facts(folder).get("algorithm") for folder in folders]
    return {"algorithm": told[0]} if told[0] is not None and all(one == told[0] for one in told) else {}


def _facts(folder: Path) -> Mapping[str, Any]:
    try:
        return read_json(folder / "llama3.json")
    except (OSError, UnusableFile):
        return {}


def average_checkpoints(
    folders: Sequence[Path], weights: Sequence[float], to: Path, extra: Mapping[str, Any] | None = None
) -> float:
    """Write the weighted mean of all into `to`, with `extra` keys of config.json; returns the root mean square
    difference of the first two."""
    if len(weights) != len(folders) or min(weights) < 0 or sum(weights) <= 0:
        raise NO_WEIGHTS("post_training.average", weights=list(weights), models=len(folders))
    sources = [open_weights(folder) for folder in folders]
    for source in sources:
        check_shapes(source)
    first = sources[0]
    if any((source.config, source.shapes) != (first.config, first.shapes) for source in sources):
        raise OTHER_ARCHITECTURE("average")
    shapes = {name: x.shape for name, x in empty_model(first.config, first.shapes).named_parameters()}
    squares: list[Tensor] = []

    def means() -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes.items():
            tensors = [_read(source, name, shape) for source in sources]
            squares.append(((tensors[0] - tensors[1]) ** 2).sum())
            yield name, weighted_mean(tensors, weights)

    write_model(first.config, shapes, means(), to, dtype=torch.float32, extra=extra)
    return float((torch.stack(squares).sum() / sum(shape.numel() for shape in shapes.values())).sqrt())


def _read(source: WeightSource, name: str, shape: torch.Size) -> Tensor:
    tensor = torch.zeros(shape)
    if problems := read_parameter(source, name, tensor):
        raise CheckpointError.of(problems)
    return tensor


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum(w x) / sum(w), accumulated in fp32 and cast to the first tensor's type once."""
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.float(), alpha=weight / sum(weights))
    return total.to(tensors[0].dtype)
