"""The stage `quantize`: a checkpoint with fewer bits, and how far each matrix is from the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.convert import open_model, write_terms
from llama3.checkpoints.formats import is_quantized
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import TensorError, quantize_model, save_quantized
from llama3.checkpoints.scheme import QuantizationScheme, build_scheme
from llama3.config.schema import Config
from llama3.config.slot_types import QuantizationSlot, Slot
from llama3.errors import CheckpointError, GateFailed
from llama3.model.transformer import Transformer
from llama3.plugins.registry import discover
from llama3.release.probe import compare, make_probe

QUANTIZED = CheckpointError.declare(
    "L3-REL-002", "the checkpoint is quantized already", fix="quantize the checkpoint it was made of"
)
NOTHING = CheckpointError.declare(
    "L3-REL-006",
    "the scheme {scheme!r} takes none of the model's matrices",
    why="the model has {layers} layers",
    fix="choose another scheme, or other options of this one",
)
DIFFERENT = GateFailed.declare(
    "L3-REL-007",
    "reading the quantized model back changes log-probabilities by {difference} nats",
    why="it computes what it did before it was written",
    fix="report this with the model's config.json",
)

FACTS_FILE = "quantization.json"
TOLERANCE = 1e-4
"""Nats. The same program computes the same from the same numbers."""


class QuantizeOptions(BaseModel):
    """Options of the stage: the scheme and where it will run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheme: QuantizationSlot
    device: str = "cpu"

    @classmethod
    def of(cls, config: Config, scheme: Slot) -> QuantizeOptions:
        """From the whole config and one of its `quantization` slots."""
        return cls(scheme=scheme, device="cuda" if config.run.device == "cuda" else "cpu")


@stage(output="checkpoint")
def quantize(checkpoint: Checkpoint, *, options: QuantizeOptions, out: StageOutput) -> None:
    """Quantize the checkpoint by the chosen scheme.

    Writes a checkpoint that `load_model` and `Tokenizer.load` read, and `quantization.json` with the error of every
    matrix. Raises PluginError where the scheme cannot run on the device, before weights are read.
    """
    scheme = scheme_on(options.device, options.scheme)
    errors = write_quantized(checkpoint.path, out.path, options.scheme.name, scheme, device=options.device)
    summary = summarize(errors)
    write_json_atomic(out.path / FACTS_FILE, {**summary, "tensors": [asdict(error) for error in errors]})
    out.metrics |= {"scheme": options.scheme.name, **summary}


def scheme_on(device: str, slot: Slot) -> QuantizationScheme:
    """The scheme that a slot names. Raises PluginError where it cannot run on a device type."""
    return build_scheme(slot.name, slot.options, device)


def write_quantized(
    path: Path,
    folder: Path,
    name: str,
    scheme: QuantizationScheme,
    *,
    device: str,
    facts: Mapping[str, Any] | None = None,
) -> list[TensorError]:
    """Quantize the model at `path`, of any layout, into `folder`, with what belongs to it; each matrix's error.

    What is not quantized keeps its precision of 16 bits, float32 becomes bfloat16. What was written is read back and
    must compute the same on `device`. facts: more that llama3.json is to say

    Raises CheckpointError where the model is damaged, quantized already, or has none of the scheme's matrices.
    """
    if is_quantized(path):
        raise QUANTIZED(path)
    source, tokenizer = open_model(path)
    if not scheme.targets(source.config):
        raise NOTHING(path, scheme=name, layers=source.config.n_layers)
    rest = torch.bfloat16 if source.dtype == torch.float32 else source.dtype
    model = load_model(path, device=device)
    errors = quantize_model(model, scheme)
    _round(model, rest)
    save_quantized(model, folder, name, scheme, rest=rest, extra=stated_ids(source, tokenizer))
    write_companions(source, tokenizer, folder)
    own = {"stage": "quantize", "scheme": name, "options": scheme.metadata(), **summarize(errors)}
    write_terms(source, folder, {**(facts or {}), **own})
    if (difference := compare(load_model(folder, device=device), make_probe(model))) > TOLERANCE:
        raise DIFFERENT(folder, difference=f"{difference:.3g}")
    return errors


def quantize_checkpoint(path: Path, folder: Path, scheme: str) -> None:
    """Quantize the model at `path` into the empty directory `folder` by a scheme as it comes, on the CPU. Raises as
    `write_quantized` does, PluginError for a scheme that is not there."""
    slot = Slot.model_validate({"name": discover().spelled("quantization", scheme)})
    write_quantized(path, folder, slot.name, scheme_on("cpu", slot), device="cpu")


@torch.no_grad()
def _round(model: Transformer, dtype: torch.dtype) -> None:
    """To the numbers that `dtype` holds; quantized matrices are no parameters."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))


def summarize(errors: list[TensorError]) -> dict[str, Any]:
    """The worst and the mean error, and the bytes of the quantized matrices beside bfloat16's."""
    count = max(len(errors), 1)
    return {
        "matrices": len(errors),
        "max_abs_error": max((error.max_abs for error in errors), default=0.0),
        "max_relative_error": max((error.relative for error in errors), default=0.0),
        "mean_relative_error": sum(error.relative for error in errors) / count,
        "bytes_bf16": sum(error.bytes_before for error in errors),
        "bytes": sum(error.bytes_after for error in errors),
    }
