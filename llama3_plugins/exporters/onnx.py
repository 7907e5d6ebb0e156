"""`onnx`: the decoder step as one ONNX graph (opset 23), for onnxruntime and for whatever reads ONNX."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import NOT_LOADED, read_language_model, write_beside, written

if TYPE_CHECKING:
    import torch

    from llama3.exporters import Transformer

FILE = "model.onnx"
OPSET = 23
"""The first with attention and RMS normalization as operators of their own."""
Precision = Literal["fp32", "fp16"]
TOLERANCE: dict[tuple[Precision, bool], float] = {
    ("fp32", False): 1e-3,
    ("fp16", False): 0.05,
    ("fp32", True): 0.05,
    ("fp16", True): 0.25,
}
"""Nats, by precision and whether matrices are quantized. In float32 what is left is the order of summation; float16 has
11 bits; and where inputs are rounded to 8 bits (fp8: 4), a small difference before it may be a whole step behind it."""


class OnnxOptions(BaseModel):
    """Options of the exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field("fp32", description="of weights, cache and logits")
    quantize: Literal["int8", "fp8"] | None = Field(
        None, description="8 bits with static scales for the feed-forward matrices of all layers but the first and last"
    )


class OnnxExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """The graph (its weights beside it where they are over 2 GB), config.json, the tokenizer's files, the probe."""
        model, tokenizer = read_language_model(checkpoint)
        rounding, notes = 0.0, tuple[str, ...]()
        if self.options.quantize is not None:
            from llama3.exporters import compare, make_probe
            from llama3_plugins.exporters.static_quantization import quantize_feed_forward

            exact = make_probe(model)
            notes = quantize_feed_forward(model, self.options.quantize, start=tokenizer.bos_id or 0)
            rounding = compare(model, exact)
        write_beside(folder, checkpoint, model, tokenizer)
        write_onnx(model, self.options.precision, folder / FILE)
        return ExportManifest(
            layout="onnx",
            dtype=self.options.quantize or self.options.precision,
            parameters=model.config.num_params(),
            files=written(folder),
            rounding=rounding,
            notes=notes,
        )

    def verify(self, folder: Path) -> VerifyReport:
        """Compute the probe by onnxruntime on the CPU: a prompt, then token by token through the cache."""
        precision = self.options.precision
        return check_onnx(folder, precision, TOLERANCE[precision, self.options.quantize is not None])


def write_onnx(model: Transformer, precision: Precision, path: Path) -> None:
    """Write the model's step; the model itself is then in that precision."""
    import torch

    from llama3.exporters import export_step, input_names, output_names

    # It tells of packages of images that are not there.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        export_step(model.to(_dtype(precision))),
        dynamo=True,
        opset_version=OPSET,
        input_names=input_names(model.config),
        output_names=output_names(model.config),
        verbose=False,
    )
    assert program is not None
    # Where in which file of this machine a node was made is nobody's business, and differs between equal models.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.save(path)


def check_onnx(folder: Path, precision: Precision, tolerance: float) -> VerifyReport:
    """Compare the step in `folder`, as onnxruntime computes it on the CPU, with the probe beside it."""
    import onnxruntime
    import torch

    from llama3.exporters import check_step

    runtime = f"onnxruntime {onnxruntime.__version__} on the CPU"
    try:
        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many classes, which have nothing else in common
        raise NOT_LOADED(folder / FILE, runtime=runtime, error=error) from error
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        given: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return check_step(folder, run, tolerance, runtime, _dtype(precision))


def _dtype(precision: Precision) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16}[precision]
