"""`hf`: Hugging Face's layout. `transformers` loads it with `trust_remote_code` off; so do servers that read it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from llama3.exporters import ExportManifest, VerifyReport
from llama3_plugins.exporters.checkpoint import read_checkpoint, written


class HfOptions(BaseModel):
    """Options of the exporter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_shard_bytes: int = Field(5_000_000_000, ge=1, description="larger checkpoints are split into several files")
    temperature: float = Field(0.6, gt=0, description="in generation_config.json, where the model states no settings")
    top_p: float = Field(0.9, gt=0, le=1, description="likewise")


GENERATION = "generation_config.json"
TOLERANCE = 1e-3
"""Nats. The probe is computed in float32 from the stored weights: what is left is the order of summation on another
machine."""


class HfExporter:
    """The exporter (`llama3.release.exporter.Exporter`)."""

    def __init__(self, options: HfOptions) -> None:
        self.options = options

    def export(self, checkpoint: Path, folder: Path) -> ExportManifest:
        """Weights in the precision that they have, config.json, what stands beside them (tokenizer, templates,
        generation_config.json), and the probe."""
        from llama3.exporters import (
            make_probe,
            open_weights,
            save_model,
            stated_ids,
            write_companions,
            write_json_atomic,
            write_probe,
        )

        model, tokenizer = read_checkpoint(checkpoint)
        source = open_weights(checkpoint)
        ids = stated_ids(source, tokenizer)
        save_model(model, folder, dtype=source.dtype, max_shard_bytes=self.options.max_shard_bytes, extra=ids)
        write_companions(source, tokenizer, folder)
        if json.loads((folder / GENERATION).read_bytes()).keys() <= ids.keys():
            sampling = {"do_sample": True, "temperature": self.options.temperature, "top_p": self.options.top_p}
            write_json_atomic(folder / GENERATION, {**ids, **sampling})
        write_probe(folder, make_probe(model))
        return ExportManifest(
            layout="hf",
            dtype=str(source.dtype).removeprefix("torch."),
            parameters=model.config.num_params(),
            files=written(folder),
        )

    def verify(self, folder: Path) -> VerifyReport:
        """Load the written weights and compare them with the probe."""
        from llama3.exporters import check_probe, load_model

        return check_probe(folder, load_model(folder), TOLERANCE)
