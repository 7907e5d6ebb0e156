"""`score`: the one log-prob engine. Algorithms, references, rewards and evaluation all read a model through it.

Beside the log-probability of the one token that is there, a target can be compared with a whole distribution, such as a
teacher's: a soft target, given by the tokens that carry it. `top` gives those of a model.

Only target rows meet the output matrix, in chunks, so that the scores over the vocabulary of a whole batch never
exist in float32 at once. Log-probabilities and entropies are computed in float32 whatever the precision of the
products.

Legend: T tokens, M targets, S segments, D model dim, V vocabulary, k tokens of a soft target.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from llama3.errors import ConfigError, DataError, Problem
from llama3.model.batch import Batch
from llama3.model.share import share
from llama3.model.transformer import Transformer, compute_dtype
from llama3.plugins.specs import Want

NOT_KNOWN = ConfigError.declare("L3-MDL-020", "cannot compute {name!r}", fix="ask for {known}")
COLD = ConfigError.declare("L3-MDL-021", "temperature {temperature} is not above 0", fix="use 1.0")
NO_HEAD = ConfigError.declare(
    "L3-MDL-022", "the model has no {head}", fix="build it with Transformer(config, {head}=True)"
)
NO_SOFT_TARGETS = DataError.declare(
    "L3-MDL-023",
    "the batch has no soft targets",
    why="the cross-entropy with them is wanted",
    fix='add per_target["soft_ids"] and per_target["soft_probs"], both [M, k], in `prepare`',
)
NOT_SO_MANY = ConfigError.declare(
    "L3-MDL-024",
    "cannot give {k} tokens",
    why="the vocabulary has {size} tokens",
    fix="give k from 1 to that",
)

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
    soft_M: Tensor = None  # type: ignore[assignment]


def score(
    model: torch.nn.Module, batch: Batch, want: Set[Want] = frozenset({"logps"}), temperature: float = 1.0
) -> Scored:
    """Run `model` (a `Transformer`, or a wrapper that forwards to one) over the forest.

    logps_M: log-probability of each target at `temperature`, in nats
    entropy_M: entropy of the distribution each target was drawn from, in nats
    values_M: value head at the token before each target; score_S: score head at each segment's last token
    soft_M: -sum_k p_k log pi(token_k) at each target, the cross-entropy with a soft target p, in nats; it is read from
        per_target["soft_ids"] (int64[M, k]) and per_target["soft_probs"] (float[M, k])

    Raises ConfigError for a column that does not exist or a head that the model lacks, DataError without soft targets.
    """
    scored = score_stage(model, batch, want, temperature)
    assert isinstance(scored, Scored), "this model is a part of one"
    return scored


def score_stage(
    model: torch.nn.Module, batch: Batch, want: Set[Want], temperature: float, x_TD: Tensor | None = None
) -> Scored | Tensor:
    """As `score`, by a pipeline's stage: `x_TD` is what the stage before it returned; one before the last returns the
    hidden states for the next."""
    if problems := _problems(want, temperature):
        raise ConfigError.of(problems)
    ends_S = batch.starts_S1[1:].long() - 1 if "score" in want else batch.source_M[:0]
    forest, read_N = share(batch, torch.cat([batch.source_M, ends_S]))
    heads = partial(_heads, batch=batch, read_N=read_N, want=want, temperature=temperature)
    found = model(forest, heads, x_TD)
    return found if isinstance(found, Tensor) else Scored(**found)


def _problems(want: Set[str], temperature: float) -> list[Problem]:
    known = get_args(Want)
    problems = [NOT_KNOWN.problem("score", name=name, known=list(known)) for name in sorted(set(want) - set(known))]
    if not temperature > 0:
        problems.append(COLD.problem("score", temperature=temperature))
    return problems


def _heads(
    model: Transformer, h_TD: Tensor, *, batch: Batch, read_N: Tensor, want: Set[Want], temperature: float
) -> dict[str, Tensor]:
    """The wanted outputs; a dict of tensors, because wrappers look for tensors in what `forward` returns.

    read_N: where in h_TD the hidden states of the targets' sources stand, then those of the segments' ends
    """
    out: dict[str, Tensor] = {}
    h_MD = h_TD[read_N[: batch.num_targets]]
    if want & {"logps", "entropy", "soft"}:
        soft = _soft_target(batch) if "soft" in want else None
        found = log_probs(h_MD, model.lm_head.weight, batch.target_ids_M, temperature, "entropy" in want, soft)
        columns = dict(zip(("logps", "entropy", "soft"), found, strict=True))
        out |= {f"{name}_M": column_M for name, column_M in columns.items() if name in want}
    if "values" in want:
        out["values_M"] = _scalar(model.value_head, "value_head", h_MD)
    if "score" in want:
        out["score_S"] = _scalar(model.score_head, "score_head", h_TD[read_N[batch.num_targets :]])
    return out


def _scalar(head: torch.nn.Linear | None, name: str, h: Tensor) -> Tensor:
    if head is None:
        raise NO_HEAD("score", head=name)
    with torch.autocast(h.device.type, enabled=False):  # it would round both to bfloat16 again
        return torch.mv(h.float(), head.weight.float()[0])  # no view: FSDP warns of those


def _soft_target(batch: Batch) -> tuple[Tensor, Tensor]:
    columns = batch.per_target
    if not {"soft_ids", "soft_probs"} <= columns.keys():
        raise NO_SOFT_TARGETS("score")
    return columns["soft_ids"], columns["soft_probs"].float()


def log_probs(
    h_MD: Tensor,
    weight_VD: Tensor,
    ids_M: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    soft: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of `ids_M` under softmax(h W' / temperature), the entropies and the cross-entropies with the
    distributions `soft` (ids_Mk, probs_Mk); zeros where they were not asked for."""
    dtype = compute_dtype(h_MD)
    none_M0 = h_MD.new_empty(len(ids_M), 0, dtype=torch.float32)
    soft_ids_Mk, soft_probs_Mk = soft or (none_M0.long(), none_M0)
    return _LogProbs.apply(h_MD.to(dtype), weight_VD, ids_M, temperature, with_entropy, soft_ids_Mk, soft_probs_Mk)


class _LogProbs(torch.autograd.Function):
    """Output matrix, log-softmax and gather in chunks of rows. The products run in the dtype of `h_MD`."""

    @staticmethod
    def forward(
        ctx: Any,
        h_MD: Tensor,
        weight_VD: Tensor,
        ids_M: Tensor,
        temperature: float,
        with_entropy: bool,
        soft_ids_Mk: Tensor,
        soft_probs_Mk: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_backward = any(ctx.needs_input_grad)
        ctx.weight_dtype, weight_VD = weight_VD.dtype, weight_VD.to(h_MD.dtype)
        keep = needs_backward and len(h_MD) * len(weight_VD) <= KEPT_LOGITS
        logps_M, entropy_M, soft_M = (h_MD.new_zeros(len(h_MD), dtype=torch.float32) for _ in range(3))
        kept: list[Tensor] = []
        for rows in _chunks(h_MD, weight_VD):
            logits = _logits(h_MD[rows], weight_VD, temperature)
            if keep:
                kept.append(logits)
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            logps_M[rows] = log_p.gather(1, ids_M[rows, None]).squeeze(1)
            soft_M[rows] = -torch.linalg.vecdot(soft_probs_Mk[rows], log_p.gather(1, soft_ids_Mk[rows]))
            if with_entropy:
                entropy_M[rows] = -torch.linalg.vecdot(log_p.exp(), log_p)
        if needs_backward:
            ctx.save_for_backward(h_MD, weight_VD, ids_M, entropy_M, soft_ids_Mk, soft_probs_Mk, *kept)
            ctx.temperature = temperature
            ctx.set_materialize_grads(False)  # None tells that a column was not used, so that it costs nothing
        return logps_M, entropy_M, soft_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        h_MD, weight_VD, ids_M, entropy_M, soft_ids_Mk, soft_probs_Mk, *kept = ctx.saved_tensors
        grad_logps_M, grad_entropy_M, grad_soft_M = grads
        grad_h_MD = torch.empty_like(h_MD)
        grad_weight_VD: Tensor | None = None
        for index, rows in enumerate(_chunks(h_MD, weight_VD)):
            logits = kept[index] if kept else _logits(h_MD[rows], weight_VD, ctx.temperature)
            grad_logits = torch.softmax(logits, dim=-1, dtype=torch.float32)
            slope = torch.zeros_like(entropy_M[rows, None])
            if grad_logps_M is not None:
                slope = slope - grad_logps_M[rows, None]
            if grad_soft_M is not None:
                pull_Mk = grad_soft_M[rows, None] * soft_probs_Mk[rows]
                slope = slope + pull_Mk.sum(1, keepdim=True)
            if grad_entropy_M is not None:
                # dH/dz = -p (log p + H)
                log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
                slope = slope - grad_entropy_M[rows, None] * log_p.add_(entropy_M[rows, None])
            grad_logits.mul_(slope)
            if grad_logps_M is not None:
                grad_logits.scatter_add_(1, ids_M[rows, None], grad_logps_M[rows, None])
            if grad_soft_M is not None:
                grad_logits.scatter_add_(1, soft_ids_Mk[rows], -pull_Mk)
            if ctx.temperature != 1.0:
                grad_logits.div_(ctx.temperature)
            grad_logits = grad_logits.to(h_MD.dtype)
            grad_h_MD[rows] = torch.mm(grad_logits, weight_VD)
            # Sums over chunks in float32: a bfloat16 sum would lose small contributions.
            part_VD = torch.mm(grad_logits.t(), h_MD[rows])
            grad_weight_VD = part_VD.float() if grad_weight_VD is None else grad_weight_VD.add_(part_VD)
        if grad_weight_VD is None:
            grad_weight_VD = torch.zeros_like(weight_VD)
        return grad_h_MD, grad_weight_VD.to(ctx.weight_dtype), *[None] * 5


@torch.no_grad()
def top(model: torch.nn.Module, batch: Batch, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens at each target and their log-probabilities, likeliest first: int64[M, k], float32[M, k].

    Raises ConfigError where k is not between 1 and the size of the vocabulary.
    """
    found = top_stage(model, batch, k, temperature)
    assert not isinstance(found, Tensor), "this model is a part of one"
    return found


def top_stage(
    model: torch.nn.Module, batch: Batch, k: int, temperature: float, x_TD: Tensor | None = None
) -> tuple[Tensor, Tensor] | Tensor:
    """As `top`, by a pipeline's stage (see `score_stage`)."""
    forest, read_M = share(batch, batch.source_M)

    def heads(model: Transformer, h_TD: Tensor) -> dict[str, Tensor]:
        weight_VD = model.lm_head.weight
        if not 1 <= k <= len(weight_VD):
            raise NOT_SO_MANY("top", k=k, size=len(weight_VD))
        h_MD = h_TD[read_M].to(compute_dtype(h_TD))
        found = [
            torch.log_softmax(_logits(h_MD[rows], weight_VD.to(h_MD.dtype), temperature), -1, torch.float32).topk(k)
            for rows in _chunks(h_MD, weight_VD)
        ]
        empty_Mk = h_MD.new_empty(0, k, dtype=torch.float32)
        return {
            "ids_Mk": torch.cat([empty_Mk.long(), *(chunk.indices for chunk in found)]),
            "logps_Mk": torch.cat([empty_Mk, *(chunk.values for chunk in found)]),
        }

    found = model(forest, heads, x_TD)
    return found if isinstance(found, Tensor) else (found["ids_Mk"], found["logps_Mk"])


def _logits(h_MD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """Scores over the vocabulary: in the dtype of the product, or float32 at another temperature than 1."""
    logits = torch.mm(h_MD, weight_VD.t())
    return logits if temperature == 1.0 else logits.float() / temperature


def _chunks(h_MD: Tensor, weight_VD: Tensor) -> list[slice]:
    budget = CHUNK_LOGITS_CUDA if h_MD.is_cuda else CHUNK_LOGITS
    rows = max(CHUNK_ROWS, budget // len(weight_VD))
    return [slice(first, first + rows) for first in range(0, len(h_MD), rows)]
