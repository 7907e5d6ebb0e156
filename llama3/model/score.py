"""`score`: the one log-prob engine. Algorithms, references, rewards and evaluation all read a model through it.

Only target rows meet the output matrix, in chunks, so that the scores over the vocabulary of a whole batch never
exist in float32 at once. Log-probabilities and entropies are computed in float32 whatever the precision of the
products.

Legend: T tokens, M targets, S segments, D model dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.errors import ConfigError, Problem
from llama3.model.batch import Batch
from llama3.model.share import share
from llama3.model.transformer import Transformer, compute_dtype

Want = Literal["logps", "entropy", "values", "score"]

CHUNK_LOGITS = 1 << 20
"""Logits computed at once on the CPU (256 rows of 4,096 tokens): their float32 copies stay in the cache."""
CHUNK_ROWS = 256
"""Rows computed at once at least: fewer would read the output matrix too often."""
CHUNK_LOGITS_CUDA = 1 << 28
KEPT_LOGITS = 1 << 26
"""Logits of one batch that are kept for the backward pass; beyond this they are computed again, so that a vocabulary of
128,256 costs one more product instead of its size in memory."""


@dataclass(frozen=True)
class Scored:
    """What was asked of the model; the rest is None. Everything float32, gradients flow through all of it.

    The types are those that whoever asked gets, so that an algorithm need not check for None what it wants.
    """

    logps_M: Tensor = None  # type: ignore[assignment]
    entropy_M: Tensor = None  # type: ignore[assignment]
    values_M: Tensor = None  # type: ignore[assignment]
    score_S: Tensor = None  # type: ignore[assignment]


def score(
    model: torch.nn.Module, batch: Batch, want: Set[Want] = frozenset({"logps"}), temperature: float = 1.0
) -> Scored:
    """Run `model` (a `Transformer`, or a wrapper that forwards to one) over the forest.

    logps_M: log-probability of each target at `temperature`, in nats
    entropy_M: entropy of the distribution each target was drawn from, in nats
    values_M: value head at the token before each target; score_S: score head at each segment's last token
    """
    if problems := _problems(want, temperature):
        raise ConfigError(problems)
    ends_S = batch.starts_S1[1:].long() - 1 if "score" in want else batch.source_M[:0]
    forest, read_N = share(batch, torch.cat([batch.source_M, ends_S]))
    heads = partial(_heads, batch=batch, read_N=read_N, want=want, temperature=temperature)
    return Scored(**model(forest, heads))


def _problems(want: Set[str], temperature: float) -> list[Problem]:
    unknown = set(want) - {"logps", "entropy", "values", "score"}
    problems = [
        Problem("L3-MDL-020", "score", f"cannot compute {name!r}", fix="ask for logps, entropy, values or score")
        for name in sorted(unknown)
    ]
    if not temperature > 0:
        problems.append(Problem("L3-MDL-021", "score", f"temperature {temperature} is not above 0", fix="use 1.0"))
    return problems


def _heads(
    model: Transformer, h_TD: Tensor, *, batch: Batch, read_N: Tensor, want: Set[Want], temperature: float
) -> dict[str, Tensor]:
    """The wanted outputs; a dict of tensors, because wrappers look for tensors in what `forward` returns.

    read_N: where in h_TD the hidden states of the targets' sources stand, then those of the segments' ends
    """
    out: dict[str, Tensor] = {}
    h_MD = h_TD[read_N[: batch.num_targets]]
    if {"logps", "entropy"} & set(want):
        logps_M, entropy_M = log_probs(h_MD, model.lm_head.weight, batch.target_ids_M, temperature, "entropy" in want)
        out["logps_M"] = logps_M
        if "entropy" in want:
            out["entropy_M"] = entropy_M
    if "values" in want:
        out["values_M"] = _scalar(model.value_head, "value_head", h_MD)
    if "score" in want:
        out["score_S"] = _scalar(model.score_head, "score_head", h_TD[read_N[batch.num_targets :]])
    return out


def _scalar(head: torch.nn.Linear | None, name: str, h: Tensor) -> Tensor:
    if head is None:
        raise ConfigError(
            Problem(
                "L3-MDL-022",
                "score",
                f"the model has no {name}",
                fix=f"build it with Transformer(config, {name}=True)",
            )
        )
    with torch.autocast(h.device.type, enabled=False):  # it would round both to bfloat16 again
        return F.linear(h.float(), head.weight.float()).squeeze(-1)


def log_probs(
    h_MD: Tensor, weight_VD: Tensor, ids_M: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `ids_M` under softmax(h W' / temperature), and the entropies (zeros unless asked for)."""
    dtype = compute_dtype(h_MD)
    return _LogProbs.apply(h_MD.to(dtype), weight_VD, ids_M, temperature, with_entropy)


class _LogProbs(torch.autograd.Function):
    """Output matrix, log-softmax and gather in chunks of rows. The products run in the dtype of `h_MD`."""

    @staticmethod
    def forward(
        ctx: Any, h_MD: Tensor, weight_VD: Tensor, ids_M: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        needs_backward = any(ctx.needs_input_grad)
        ctx.weight_dtype, weight_VD = weight_VD.dtype, weight_VD.to(h_MD.dtype)
        keep = needs_backward and len(h_MD) * len(weight_VD) <= KEPT_LOGITS
        logps_M, entropy_M = (h_MD.new_zeros(len(h_MD), dtype=torch.float32) for _ in range(2))
        kept: list[Tensor] = []
        for rows in _chunks(h_MD, weight_VD):
            logits = _logits(h_MD[rows], weight_VD, temperature)
            if keep:
                kept.append(logits)
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            logps_M[rows] = log_p.gather(1, ids_M[rows, None]).squeeze(1)
            if with_entropy:
                entropy_M[rows] = -torch.linalg.vecdot(log_p.exp(), log_p)
        if needs_backward:
            ctx.save_for_backward(h_MD, weight_VD, ids_M, entropy_M, *kept)
            ctx.temperature, ctx.with_entropy = temperature, with_entropy
        return logps_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        h_MD, weight_VD, ids_M, entropy_M, *kept = ctx.saved_tensors
        grad_logps_M, grad_entropy_M = grads
        grad_h_MD = torch.empty_like(h_MD)
        grad_weight_VD: Tensor | None = None
        for index, rows in enumerate(_chunks(h_MD, weight_VD)):
            logits = kept[index] if kept else _logits(h_MD[rows], weight_VD, ctx.temperature)
            slope = grad_logps_M[rows, None].neg()
            p = torch.softmax(logits, dim=-1, dtype=torch.float32)
            if ctx.with_entropy:
                # dH/dz = -p (log p + H)
                log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
                slope = slope - grad_entropy_M[rows, None] * log_p.add_(entropy_M[rows, None])
            grad_logits = p.mul_(slope).scatter_add_(1, ids_M[rows, None], grad_logps_M[rows, None])
            if ctx.temperature != 1.0:
                grad_logits.div_(ctx.temperature)
            grad_logits = grad_logits.to(h_MD.dtype)
            grad_h_MD[rows] = torch.mm(grad_logits, weight_VD)
            # Sums over chunks in float32: a bfloat16 sum would lose small contributions.
            part_VD = torch.mm(grad_logits.t(), h_MD[rows])
            grad_weight_VD = part_VD.float() if grad_weight_VD is None else grad_weight_VD.add_(part_VD)
        if grad_weight_VD is None:
            grad_weight_VD = torch.zeros_like(weight_VD)
        return grad_h_MD, grad_weight_VD.to(ctx.weight_dtype), None, None, None


def _logits(h_MD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """Scores over the vocabulary: in the dtype of the product, or float32 at another temperature than 1."""
    logits = torch.mm(h_MD, weight_VD.t())
    return logits if temperature == 1.0 else logits.float() / temperature


def _chunks(h_MD: Tensor, weight_VD: Tensor) -> list[slice]:
    budget = CHUNK_LOGITS_CUDA if h_MD.is_cuda else CHUNK_LOGITS
    rows = max(CHUNK_ROWS, budget // len(weight_VD))
    return [slice(first, first + rows) for first in range(0, len(h_MD), rows)]
