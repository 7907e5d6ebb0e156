"""The probe of a model: token ids with the most likely next tokens and their log-probabilities, and how the engine goes
on greedily.

It lies beside exported weights. Whoever holds the directory can run the ids through any implementation and compare.

Legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama3.artifacts.files import fsync_file
from llama3.checkpoints.weights import save_tensors
from llama3.errors import CheckpointError
from llama3.inference.engine import Engine
from llama3.inference.sampling import Sampling
from llama3.model.batch import Batch
from llama3.model.transformer import Transformer
from llama3.release.exporter import VerifyReport

NO_PROBE = CheckpointError.declare(
    "L3-REL-001", "the probe cannot be used ({kind}: {error})", fix="export the checkpoint again"
)

PROBE_FILE = "probe.safetensors"
PROBE_TOKENS, PROBE_TOP = 64, 16
GREEDY_PROMPT, GREEDY_TOKENS = 16, 32
"""The first tokens of the probe, and how many the engine puts behind them."""

NextTokenLogps = Callable[[Tensor], Tensor]
"""Log-probabilities of what comes after each token of a text: tokens_T -> float32 logps_TV."""


def make_probe(model: Transformer) -> dict[str, Tensor]:
    """The probe of a model: token ids [T], the most likely next tokens [T, top], their log-probabilities, and the
    engine's greedy continuation of the first `GREEDY_PROMPT` ids (shorter where the context is)."""
    vocab = model.config.vocab_size
    tokens_T = torch.from_numpy(np.random.default_rng(0).integers(0, vocab, PROBE_TOKENS))
    logps_TV = _next_token_logps(model, tokens_T)
    top = logps_TV.topk(min(PROBE_TOP, vocab))
    return {
        "tokens": tokens_T,
        "top_ids": top.indices.contiguous(),
        "top_logps": top.values.contiguous(),
        "greedy_ids": _greedy(model, tokens_T[:GREEDY_PROMPT]),
    }


def _greedy(model: Transformer, prompt_T: Tensor) -> Tensor:
    count = min(GREEDY_TOKENS, model.config.max_seq_len - len(prompt_T))
    if count < 1:
        return torch.empty(0, dtype=torch.int64)
    ((answer,),) = Engine(model).generate([prompt_T.numpy()], Sampling(count, temperature=0))
    return torch.tensor(answer.ids)


def write_probe(folder: Path, made: dict[str, Tensor]) -> None:
    """Put a probe beside the weights."""
    save_tensors(made, folder / PROBE_FILE)
    fsync_file(folder / PROBE_FILE)


def compare(model: Transformer, expected: Mapping[str, Tensor]) -> float:
    """Largest difference between the model's log-probabilities and a probe's, in nats."""
    return _difference(_next_token_logps(model, expected["tokens"]), expected)


def check_probe(folder: Path, model: Transformer, tolerance: float) -> VerifyReport:
    """Compare a model with the probe in `folder`. Raises CheckpointError where there is none or another model's."""
    return check_logps(folder, lambda tokens_T: _next_token_logps(model, tokens_T), tolerance)


def check_logps(folder: Path, logps_of: NextTokenLogps, tolerance: float, runtime: str = "llama3") -> VerifyReport:
    """Compare what computes the next tokens' log-probabilities, `runtime`, with the probe in `folder`.

    Each greedy token is drawn after the engine's own before it. Another one than the engine's counts as the same if it
    is more likely by at most twice the tolerance: rounding decides between such two.
    Raises CheckpointError where there is no probe or another model's.
    """
    path = folder / PROBE_FILE
    try:
        expected = load_file(path)
        tokens_T, greedy_T = expected["tokens"], expected.get("greedy_ids", torch.empty(0, dtype=torch.int64))
        difference = _difference(logps_of(tokens_T), expected)
        same = _same_choices(logps_of, tokens_T[:GREEDY_PROMPT], greedy_T, 2 * tolerance) if len(greedy_T) else 0
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError) as error:
        raise NO_PROBE(path, kind=type(error).__name__, error=error) from error
    return VerifyReport(
        difference=difference,
        tolerance=tolerance,
        log_probs=expected["top_ids"].numel(),
        tokens=len(greedy_T),
        same_tokens=same,
        runtime=runtime,
    )


def _difference(logps_TV: Tensor, expected: Mapping[str, Tensor]) -> float:
    return float((logps_TV.gather(1, expected["top_ids"]) - expected["top_logps"]).abs().max())


def _same_choices(logps_of: NextTokenLogps, prompt_T: Tensor, greedy_T: Tensor, tie: float) -> int:
    logps_TV = logps_of(torch.cat([prompt_T, greedy_T[:-1]]))[len(prompt_T) - 1 :]
    lost_T = logps_TV.max(-1).values - logps_TV.gather(1, greedy_T[:, None])[:, 0]
    return int((lost_T <= tie).sum())


@torch.no_grad()
def _next_token_logps(model: Transformer, tokens_T: Tensor) -> Tensor:
    batch = Batch.of_documents(tokens_T).to(model.embed.weight.device)
    return model.logits(model.hidden(batch)).float().log_softmax(-1).cpu()
