"""`compressed_tensors`: a quantized model in the layout that vLLM and `transformers` load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import written

if TYPE_CHECKING:
    from llama3.exporters import QuantizedWeights

TOLERANCE = 1e-3
"""Nats: as for `hf`."""


class CompressedTensorsOptions(BaseModel):
    """Options of the exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheme: str = Field("int8", description="how a model is quantized that is not quantized yet")


class CompressedTensorsExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    layout: ClassVar[str] = "compressed-tensors"

    def __init__(self, options: CompressedTensorsOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """Codes and scales as they are, config.json, what stands beside the weights, and the probe.

        Raises CheckpointError where the layout has no form for what a scheme made.
        """
        from llama3.exporters import is_quantized, open_weights, quantize_checkpoint, require_quantized

        with TemporaryDirectory(dir=folder) as place:
            quantized = checkpoint
            if not is_quantized(checkpoint):
                quantized = Path(place)
                quantize_checkpoint(checkpoint, quantized, self.options.scheme)
            made = self._write(require_quantized(open_weights(quantized)), quantized, folder)
        return replace(made, files=written(folder))

    def verify(self, folder: Path) -> VerifyReport:
        """Read the weights that the codes stand for and compare them with the probe."""
        from llama3.exporters import check_probe, load_model

        return check_probe(folder, load_model(folder), TOLERANCE)

    def _write(self, source: QuantizedWeights, checkpoint: Path, folder: Path) -> ExportManifest:
        from llama3.exporters import compare, load_model, load_tokenizer, make_probe, write_probe

        notes = self._writer()(source, load_tokenizer(checkpoint), folder, source.rest_dtype)
        # Of the numbers that the codes stand for: how inputs are rounded is for whoever computes with the codes.
        probe = make_probe(load_model(folder))
        write_probe(folder, probe)
        return ExportManifest(
            layout=self.layout,
            dtype=source.scheme,
            parameters=source.config.num_params(),
            files=(),
            rounding=compare(load_model(checkpoint), probe),
            notes=tuple(notes),
        )

    def _writer(self) -> Callable[..., list[str]]:
        from llama3.exporters import write_compressed

        return write_compressed
