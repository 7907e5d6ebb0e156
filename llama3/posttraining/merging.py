"""Merging an adapter into its base model, with a report of the error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llama3.artifacts.artifact import artifact_around
from llama3.artifacts.files import atomic_directory
from llama3.checkpoints.companions import stated_ids, write_companions
from llama3.checkpoints.convert import facts_of, open_model, write_terms
from llama3.checkpoints.load import load_model
from llama3.checkpoints.peft_adapter import load_adapter
from llama3.checkpoints.weights import save_model
from llama3.errors import ArtifactError
from llama3.model.batch import Batch
from llama3.model.lora import merge
from llama3.model.score import score
from llama3.model.transformer import Transformer

OUTPUT_EXISTS = ArtifactError.declare("L3-LRA-007", "already exists", fix="give a new directory")

PROBE_TOKENS = 256
"""Tokens on which the merged model is compared with base + adapter: every n-th id of the vocabulary."""


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What merging changed and what it cost."""

    matrices: int
    change: float
    """Mean over matrices of the adapter's Frobenius norm over the base's."""
    max_abs_error: float
    """Largest rounding error of a weight, against a sum in float64."""
    max_logp_error: float
    """Largest difference of a log-probability on the probe, merged against unmerged, in nats."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def merge_adapter(base: Path, adapter: Path, out: Path) -> MergeReport:
    """Write base + adapter as a checkpoint in the base's precision, with all that stands beside the base's weights.

    Raises ArtifactError when `out` exists, CheckpointError for an adapter that does not belong to the base; nothing is
    written then.
    """
    if out.exists():
        raise OUTPUT_EXISTS(out)
    for given in (base, adapter):
        artifact_around(given)
    source, tokenizer = open_model(base)
    model = load_model(base)
    load_adapter(model, adapter)
    before = _probe(model)
    errors = merge(model, source.dtype)
    report = MergeReport(
        matrices=len(errors),
        change=sum(error.change for error in errors) / max(len(errors), 1),
        max_abs_error=max((error.max_abs for error in errors), default=0.0),
        max_logp_error=float((_probe(model) - before).abs().max()),
    )
    with atomic_directory(out) as folder:
        save_model(model, folder, dtype=source.dtype, extra=stated_ids(source, tokenizer))
        write_companions(source, tokenizer, folder)
        write_terms(source, folder, {**facts_of(source), "merged": report.to_json()})
    return report


@torch.no_grad()
def _probe(model: Transformer) -> torch.Tensor:
    size = model.config.vocab_size
    tokens = torch.arange(min(PROBE_TOKENS, size)) * max(1, size // PROBE_TOKENS)
    return score(model, Batch.of_documents(tokens, [0])).logps_M
