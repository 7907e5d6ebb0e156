"""`onnx`: the decoder step as one ONNX graph (opset 23), for onnxruntime and for whatever reads ONNX."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import read_language_model, write_beside, written

if TYPE_CHECKING:
    import torch

    from llama3.exporters import Transformer

FILE = "model.onnx"
OPSET = 23
"""The first with attention and RMS normalization as operators of their own."""
Precision = Literal["fp32", "fp16"]
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.05}
"""Nats. In float32 what is left is the order of summation; float16 has 11 bits."""


class OnnxOptions(BaseModel):
    """Options of the exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    precision: Precision = Field("fp32", description="of weights, cache and logits")


class OnnxExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    def __init__(self, options: OnnxOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """The graph (its weights beside it where they are over 2 GB), config.json, the tokenizer's files, the probe."""
        model, tokenizer = read_language_model(checkpoint)
        write_beside(folder, checkpoint, model, tokenizer)
        write_onnx(model, self.options.precision, folder / FILE)
        return ExportManifest(
            layout="onnx",
            dtype=self.options.precision,
            parameters=model.config.num_params(),
            files=written(folder),
        )

    def verify(self, folder: Path) -> VerifyReport:
        """Compute the probe by onnxruntime on the CPU: a prompt, then token by token through the cache."""
        return check_onnx(folder, folder / FILE, self.options.precision)


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


def check_onnx(folder: Path, path: Path, precision: Precision) -> VerifyReport:
    """Compare the step in `path`, as onnxruntime computes it on the CPU, with the probe in `folder`."""
    import onnxruntime
    import torch

    from llama3.exporters import check_step

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        given: dict[str, Any] = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    runtime = f"onnxruntime {onnxruntime.__version__} on the CPU"
    return check_step(folder, run, TOLERANCE[precision], runtime, _dtype(precision))


def _dtype(precision: Precision) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16}[precision]
