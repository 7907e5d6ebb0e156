"""The probe of a model: token ids with the most likely next tokens and their log-probabilities.

It lies beside exported weights. Whoever holds the directory can run the ids through any implementation and compare.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama3.artifacts.files import fsync_file
from llama3.errors import CheckpointError
from llama3.model.batch import Batch
from llama3.model.transformer import Transformer
from llama3.release.exporter import VerifyReport

NO_PROBE = CheckpointError.declare(
    "L3-REL-001", "the probe cannot be used ({kind}: {error})", fix="export the checkpoint again"
)

PROBE_FILE = "probe.safetensors"
PROBE_TOKENS, PROBE_TOP = 64, 16


def make_probe(model: Transformer) -> dict[str, Tensor]:
    """The probe of a model: token ids [T], the most likely next tokens [T, top] and their log-probabilities."""
    vocab = model.config.vocab_size
    tokens_T = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, PROBE_TOKENS))
    logps_TV = _next_token_logps(model, tokens_T)
    top = logps_TV.topk(min(PROBE_TOP, vocab))
    return {"tokens": tokens_T, "top_ids": top.indices.contiguous(), "top_logps": top.values.contiguous()}


def write_probe(folder: Path, made: dict[str, Tensor]) -> None:
    """Put a probe beside the weights."""
    save_file(made, folder / PROBE_FILE)
    fsync_file(folder / PROBE_FILE)


def compare(model: Transformer, expected: dict[str, Tensor]) -> float:
    """Largest difference between the model's log-probabilities and a probe's, in nats."""
    logps_TV = _next_token_logps(model, expected["tokens"])
    return float((logps_TV.gather(1, expected["top_ids"]) - expected["top_logps"]).abs().max())


def check_probe(folder: Path, model: Transformer, tolerance: float) -> VerifyReport:
    """Compare a model with the probe in `folder`. Raises CheckpointError where there is none or another model's."""
    path = folder / PROBE_FILE
    try:
        expected = load_file(path)
        difference = compare(model, expected)
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as error:
        raise NO_PROBE(path, kind=type(error).__name__, error=error) from error
    return VerifyReport(difference=difference, tolerance=tolerance, log_probs=expected["top_ids"].numel())


@torch.no_grad()
def _next_token_logps(model: Transformer, tokens_T: Tensor) -> Tensor:
    batch = Batch.of_documents(tokens_T).to(model.embed.weight.device)
    return model.logits(model.hidden(batch)).float().log_softmax(-1).cpu()
