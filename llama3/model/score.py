"""`score`: the one log-prob engine. Algorithms, references, rewards and evaluation all read a model through it.

Beside the log-probability of the one token that is there, a target can be compared with a whole distribution, such as a
teacher's: a soft target, given by the tokens that carry it, by its cross-entropy or token by token. `top` gives those
of a model.

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
from llama3.model.activations import KEPT_LOGITS
from llama3.model.batch import Batch
from llama3.model.rows import ForestRows, padded
from llama3.model.share import share
from llama3.model.transformer import Transformer, compute_dtype
from llama3.model.vocabulary import Vocabulary
from llama3.plugins.specs import Want

NOT_KNOWN = ConfigError.declare("L3-MDL-020", "cannot compute {name!r}", fix="ask for {known}")
COLD = ConfigError.declare("L3-MDL-021", "temperature {temperature} is not above 0", fix="use 1.0")
NO_HEAD = ConfigError.declare(
    "L3-MDL-022", "the model has no {head}", fix="build it with Transformer(config, {head}=True)"
)
NO_SOFT_TARGETS = DataError.declare(
    "L3-MDL-023",
    "the batch has no soft targets",
    why="per_target lacks {missing}",
    fix="add it, [M, k], in `prepare`",
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


@dataclass(frozen=True)
class Scored:
    """What was asked of the model; the rest is None. Everything float32, gradients flow through all but `collision_M`.

    The types are those that whoever asked gets, so that an algorithm need not check for None what it wants.
    """

    logps_M: Tensor = None  # type: ignore[assignment]
    entropy_M: Tensor = None  # type: ignore[assignment]
    collision_M: Tensor = None  # type: ignore[assignment]
    values_M: Tensor = None  # type: ignore[assignment]
    score_S: Tensor = None  # type: ignore[assignment]
    soft_M: Tensor = None  # type: ignore[assignment]
    soft_logps_Mk: Tensor = None  # type: ignore[assignment]


def score(
    model: torch.nn.Module, batch: Batch, want: Set[Want] = frozenset({"logps"}), temperature: float = 1.0
) -> Scored:
    """Run `model` (a `Transformer`, or a wrapper that forwards to one) over the forest.

    logps_M: log-probability of each target at `temperature`, in nats
    entropy_M: entropy of the distribution each target was drawn from, in nats
    collision_M: log sum_v pi(v)^2 of that distribution, how likely two draws from it are equal; without gradient
    values_M: value head at the token before each target; score_S: score head at each segment's last token
    soft_M: -sum_k p_k log pi(token_k) at each target, the cross-entropy with a soft target p, in nats; it is read from
        per_target["soft_ids"] (int64[M, k]) and per_target["soft_probs"] (float[M, k])
    soft_logps_Mk: log pi(token_k) itself, of the tokens of per_target["soft_ids"]

    Raises ConfigError for a column that does not exist or a head that the model lacks, DataError without soft targets.
    """
    scored = score_stage(model, Microbatch.of(batch, want), want, temperature)
    assert isinstance(scored, Scored), "this model is a part of one"
    return scored


@dataclass(frozen=True, slots=True)
class Microbatch:
    """One forward (and backward). An empty one keeps the ranks in step."""

    batch: Batch
    """What is scored."""
    forest: Batch
    """What the model computes for it: the batch without repeated beginnings (llama3.model.share), padded."""
    read_N: Tensor
    """Where in the forest the tokens stand whose hidden states are read: those that predict the targets, then the last
    one of each segment where `score` is wanted."""
    chunk: int = 0
    """Which of this process's parts of the model computes it: a pipeline may give it several."""

    @classmethod
    def of(cls, batch: Batch, want: Set[str] = frozenset(), multiple: int = 1) -> Microbatch:
        """multiple: of how many tokens a forest must be (`Transformer.multiple`)."""
        ends_S = batch.starts_S1[1:].long() - 1 if "score" in want else batch.source_M[:0]
        forest, read_N = share(batch, torch.cat([batch.source_M, ends_S]))
        return cls(batch, padded(forest, multiple), read_N)


def score_stage(
    model: torch.nn.Module, microbatch: Microbatch, want: Set[Want], temperature: float, x_TD: Tensor | None = None
) -> Scored | Tensor:
    """As `score`, by a pipeline's stage: `x_TD` is what the stage before it returned; one before the last returns the
    hidden states for the next."""
    if problems := _problems(want, temperature):
        raise ConfigError.of(problems)
    heads = partial(_heads, microbatch=microbatch, want=want, temperature=temperature)
    found = model(microbatch.forest, heads, x_TD, microbatch.chunk)
    return found if isinstance(found, Tensor) else Scored(**found)


def _problems(want: Set[str], temperature: float) -> list[Problem]:
    known = get_args(Want)
    problems = [NOT_KNOWN.problem("score", name=name, known=list(known)) for name in sorted(set(want) - set(known))]
    if not temperature > 0:
        problems.append(COLD.problem("score", temperature=temperature))
    return problems


def _heads(
    model: Transformer, h_TD: Tensor, rows: ForestRows, *, microbatch: Microbatch, want: Set[Want], temperature: float
) -> dict[str, Tensor]:
    """The wanted outputs; a dict of tensors, because wrappers look for tensors in what `forward` returns."""
    out: dict[str, Tensor] = {}
    batch, read_M, read_S = microbatch.batch, *microbatch.read_N.tensor_split([microbatch.batch.num_targets])
    held_M, place_M = rows.held(read_M)
    h_MD = h_TD[place_M]
    if want & {"logps", "entropy", "collision", "soft", "soft_logps"}:
        soft_ids_Mk = _soft(batch, "soft_ids")[held_M] if want & {"soft", "soft_logps"} else None
        ids_M, weight_VD = batch.target_ids_M[held_M], model.lm_head.weight
        names = ("logps_M", "entropy_M", "collision_M", "soft_logps_Mk")
        found = log_probs(h_MD, weight_VD, ids_M, temperature, "entropy" in want, "collision" in want, soft_ids_Mk)
        columns = dict(zip(names, found, strict=True))
        if "soft" in want:
            columns["soft_M"] = -(_soft(batch, "soft_probs")[held_M].float() * columns["soft_logps_Mk"]).sum(1)
        out |= {name: column for name, column in columns.items() if name.rpartition("_")[0] in want}
    if "values" in want:
        out["values_M"] = _scalar(model.value_head, "value_head", h_MD)
    out = {name: rows.joined(column_M, held_M, len(read_M)) for name, column_M in out.items()}
    if "score" in want:
        held_S, place_S = rows.held(read_S)
        score_S = _scalar(model.score_head, "score_head", h_TD[place_S])
        out["score_S"] = rows.joined(score_S, held_S, len(read_S))
    return out


def _scalar(head: torch.nn.Linear | None, name: str, h: Tensor) -> Tensor:
    if head is None:
        raise NO_HEAD("score", head=name)
    with torch.autocast(h.device.type, enabled=False):  # it would round both to bfloat16 again
        return torch.mv(h.float(), head.weight.float()[0])  # no view: FSDP warns of those


def _soft(batch: Batch, name: str) -> Tensor:
    if name not in batch.per_target:
        raise NO_SOFT_TARGETS("score", missing=name)
    return batch.per_target[name]


def log_probs(
    h_MD: Tensor,
    weight_VD: Tensor,
    ids_M: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    with_collision: bool = False,
    soft_ids_Mk: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of `ids_M` under softmax(h W' / temperature), the entropies and the log-probabilities of a
    collision (zeros where they were not asked for), and the log-probabilities of `soft_ids_Mk`.

    W may be a DTensor whose rows are cut over ranks: all of them call it, with the same arguments."""
    dtype = compute_dtype(h_MD)
    vocabulary, weight_VD = Vocabulary.of(weight_VD)
    if soft_ids_Mk is None:
        soft_ids_Mk = ids_M.new_empty(len(ids_M), 0)
    given = (ids_M, temperature, with_entropy, with_collision, soft_ids_Mk, vocabulary)
    return _LogProbs.apply(h_MD.to(dtype), weight_VD, *given)


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
        with_collision: bool,
        soft_ids_Mk: Tensor,
        vocabulary: Vocabulary,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs_backward = any(ctx.needs_input_grad)
        ctx.weight_dtype, weight_VD = weight_VD.dtype, weight_VD.to(h_MD.dtype)
        keep = needs_backward and len(h_MD) * vocabulary.size <= KEPT_LOGITS
        logps_M, entropy_M, collision_M = (h_MD.new_zeros(len(h_MD), dtype=torch.float32) for _ in range(3))
        soft_logps_Mk = h_MD.new_empty(soft_ids_Mk.shape, dtype=torch.float32)
        kept = [_logits(h_MD, weight_VD, temperature)] if keep else []
        for rows in _chunks(h_MD, vocabulary):
            logits = kept[0][rows] if kept else _logits(h_MD[rows], weight_VD, temperature)
            log_p = vocabulary.log_softmax(logits)
            logps_M[rows] = vocabulary.pick(log_p, ids_M[rows, None]).squeeze(1)
            if soft_ids_Mk.shape[1]:
                soft_logps_Mk[rows] = vocabulary.pick(log_p, soft_ids_Mk[rows])
            if with_entropy:
                entropy_M[rows] = vocabulary.sum(-torch.linalg.vecdot(log_p.exp(), log_p))
            if with_collision:
                collision_M[rows] = vocabulary.sum((2 * log_p).exp().sum(1)).log()
        ctx.mark_non_differentiable(collision_M)
        if needs_backward:
            ctx.save_for_backward(h_MD, weight_VD, ids_M, entropy_M, soft_ids_Mk, *kept)
            ctx.temperature, ctx.vocabulary = temperature, vocabulary
            ctx.set_materialize_grads(False)  # None tells that a column was not used, so that it costs nothing
        return logps_M, entropy_M, collision_M, soft_logps_Mk

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        h_MD, weight_VD, ids_M, entropy_M, soft_ids_Mk, *kept = ctx.saved_tensors
        grad_logps_M, grad_entropy_M, _, grad_soft_Mk = grads
        vocabulary: Vocabulary = ctx.vocabulary
        # Logits that were kept give way to their gradient, of which two products are then made at once.
        in_place = kept if kept and kept[0].dtype == h_MD.dtype else []
        grad_h_MD = torch.empty_like(h_MD)
        grad_weight_VD: Tensor | None = None
        for rows in _chunks(h_MD, vocabulary):
            logits = kept[0][rows] if kept else _logits(h_MD[rows], weight_VD, ctx.temperature)
            grad_logits = vocabulary.softmax(logits)
            slope = torch.zeros_like(entropy_M[rows, None])
            if grad_logps_M is not None:
                slope = slope - grad_logps_M[rows, None]
            if grad_soft_Mk is not None:
                slope = slope - grad_soft_Mk[rows].sum(1, keepdim=True)
            if grad_entropy_M is not None:
                # dH/dz = -p (log p + H)
                log_p = vocabulary.log_softmax(logits)
                slope = slope - grad_entropy_M[rows, None] * log_p.add_(entropy_M[rows, None])
            grad_logits.mul_(slope)
            if grad_logps_M is not None:
                vocabulary.add_at(grad_logits, ids_M[rows, None], grad_logps_M[rows, None])
            if grad_soft_Mk is not None:
                vocabulary.add_at(grad_logits, soft_ids_Mk[rows], grad_soft_Mk[rows])
            if ctx.temperature != 1.0:
                grad_logits.div_(ctx.temperature)
            if in_place:
                in_place[0][rows] = grad_logits
                continue
            grad_logits = grad_logits.to(h_MD.dtype)
            grad_h_MD[rows] = torch.mm(grad_logits, weight_VD)
            # Sums over chunks in float32: a bfloat16 sum would lose small contributions.
            part_VD = torch.mm(grad_logits.t(), h_MD[rows])
            grad_weight_VD = part_VD.float() if grad_weight_VD is None else grad_weight_VD.add_(part_VD)
        if in_place:
            grad_h_MD = torch.mm(in_place[0], weight_VD)
            grad_weight_VD = torch.mm(in_place[0].t(), h_MD)
        if grad_weight_VD is None:
            grad_weight_VD = torch.zeros_like(weight_VD)
        # Every part of the vocabulary pulls at the hidden states: what goes back is the whole pull, on all ranks.
        return vocabulary.sum(grad_h_MD), grad_weight_VD.to(ctx.weight_dtype), *[None] * 6


@torch.no_grad()
def top(model: torch.nn.Module, batch: Batch, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens at each target and their log-probabilities, likeliest first: int64[M, k], float32[M, k].

    Raises ConfigError where k is not between 1 and the size of the vocabulary.
    """
    found = top_stage(model, Microbatch.of(batch), k, temperature)
    assert not isinstance(found, Tensor), "this model is a part of one"
    return found


def top_stage(
    model: torch.nn.Module, microbatch: Microbatch, k: int, temperature: float, x_TD: Tensor | None = None
) -> tuple[Tensor, Tensor] | Tensor:
    """As `top`, by a pipeline's stage (see `score_stage`)."""

    def heads(model: Transformer, h_TD: Tensor, rows: ForestRows) -> dict[str, Tensor]:
        size = len(model.lm_head.weight)
        if not 1 <= k <= size:
            raise NOT_SO_MANY("top", k=k, size=size)
        vocabulary, weight_VD = Vocabulary.of(model.lm_head.weight)
        held_M, place_M = rows.held(microbatch.read_N)
        h_MD = h_TD[place_M].to(compute_dtype(h_TD))
        weight_VD = weight_VD.to(h_MD.dtype)
        found = [
            vocabulary.top(vocabulary.log_softmax(_logits(h_MD[part], weight_VD, temperature)), k)
            for part in _chunks(h_MD, vocabulary)
        ]
        empty_Mk = h_MD.new_empty(0, k, dtype=torch.float32)
        logps_Mk, ids_Mk = (torch.cat(x) for x in zip((empty_Mk, empty_Mk.long()), *found, strict=True))
        columns = {"ids_Mk": ids_Mk, "logps_Mk": logps_Mk}
        return {name: rows.joined(column, held_M, len(microbatch.read_N)) for name, column in columns.items()}

    found = model(microbatch.forest, heads, x_TD, microbatch.chunk)
    return found if isinstance(found, Tensor) else (found["ids_Mk"], found["logps_Mk"])


def _logits(h_MD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    """Scores over the vocabulary: in the dtype of the product, or float32 at another temperature than 1."""
    logits = torch.mm(h_MD, weight_VD.t())
    return logits if temperature == 1.0 else logits.float() / temperature


def _chunks(h_MD: Tensor, vocabulary: Vocabulary) -> list[slice]:
    budget = CHUNK_LOGITS_CUDA if h_MD.is_cuda else CHUNK_LOGITS
    rows = max(CHUNK_ROWS, budget // vocabulary.size)
    return [slice(first, first + rows) for first in range(0, len(h_MD), rows)]
