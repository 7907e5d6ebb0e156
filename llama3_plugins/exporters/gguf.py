"""`gguf`: one file with weights, tokenizer and chat template, as llama.cpp and the programs built on it read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from llama3.exporters import ExportManifest, GgufType, VerifyReport
from llama3_plugins.exporters.checkpoint import read_language_model, written

FILE = "model.gguf"
TOLERANCE = 1e-3
"""Nats between what was rounded and what is read back: the order of summation on another machine."""


class GgufOptions(BaseModel):
    """Options of the exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: GgufType = Field(
        "F16", description="of the matrices; with Q4_0 the embedding and the output matrix are kept in Q8_0"
    )


class GgufExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    def __init__(self, options: GgufOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """The file, and the probe of the model with the weights that the file holds."""
        from llama3.exporters import compare, make_probe, open_weights, write_gguf, write_probe

        model, tokenizer = read_language_model(checkpoint)
        source, exact = open_weights(checkpoint), make_probe(model)
        notes = write_gguf(folder / FILE, model, tokenizer, self.options.type, name=source.name, license=source.license)
        write_probe(folder, make_probe(model))
        return ExportManifest(
            layout="gguf",
            dtype=self.options.type,
            parameters=model.config.num_params(),
            files=written(folder),
            rounding=compare(model, exact),
            notes=tuple(notes),
        )

    def verify(self, folder: Path) -> VerifyReport:
        """Read the file with our reader and with the package's own, and compute the probe again."""
        from llama3.exporters import check_gguf, check_probe, load_model

        check_gguf(folder / FILE)
        report = check_probe(folder, load_model(folder / FILE), TOLERANCE)
        return replace(
            report,
            runtime="llama3, from tensors that the reader of the package gguf finds too",
            not_verified=("llama.cpp itself: nothing was run with it",),
        )
