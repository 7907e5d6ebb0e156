"""The stage `quantize`: a checkpoint with fewer bits, and how far each matrix is from the original."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict

from llama3.artifacts import Checkpoint, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.checkpoints.companions import write_companions
from llama3.checkpoints.formats import open_weights
from llama3.checkpoints.hf import read_raw_config
from llama3.checkpoints.load import load_model
from llama3.checkpoints.quantized import TensorError, quantize_model, save_quantized
from llama3.config.schema import Config, QuantizationSlot, Slot
from llama3.errors import CheckpointError, PluginError
from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer

QUANTIZED = CheckpointError.declare(
    "L3-REL-002", "the checkpoint is quantized already", fix="quantize the checkpoint it was made of"
)


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
    scheme = discover().build("quantization", options.scheme.name, options.scheme.options)
    if problems := scheme.supports(options.device):
        raise PluginError.of(problems)
    source = checkpoint.path
    if "quantization" in read_raw_config(source):
        raise QUANTIZED(source)
    model = load_model(source)
    errors = quantize_model(model, scheme)
    save_quantized(model, out.path, options.scheme.name, scheme)
    write_companions(open_weights(source), Tokenizer.load(source), out.path)
    summary = summarize(errors)
    write_json_atomic(out.path / "quantization.json", {**summary, "tensors": [asdict(error) for error in errors]})
    facts = {"stage": "quantize", "scheme": options.scheme.name, "options": scheme.metadata(), **summary}
    write_json_atomic(out.path / "llama3.json", facts)
    out.metrics |= {"scheme": options.scheme.name, **summary}


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
