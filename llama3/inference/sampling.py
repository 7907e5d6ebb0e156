"""How the next token is drawn: temperature, top-k, top-p, and one random number per token that depends on nothing else.

The random number of a token is a hash of (seed, prompt, number of the fork, index of the token). So an answer does not
depend on which other requests run beside it, and the same seed gives the same answer.

Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llama3 import _core
from llama3.errors import ConfigError, LlamaError
from llama3.model.ops import as_array, is_for_core

OUT_OF_RANGE = ConfigError.declare("L3-GEN-001", "is {value}", why="it must be {rule}", fix="change it")
NOT_FINITE = LlamaError.declare("L3-GEN-002", "the model's scores are not finite numbers", fix="use another checkpoint")

MOST_ANSWERS = 65_536
"""Answers per prompt. Each waits for its turn in memory."""
MOST_TOPS = 20
"""Likeliest tokens that are told with each one drawn."""
CDF_BLOCK = 256
"""Tokens whose probabilities are summed before one of them is looked for."""

COLDEST = 1e-20
"""A temperature below it takes the likeliest token: scores over less are no numbers of float32."""

Top = list[tuple[int, float]]
"""The likeliest tokens at one place with their log-probabilities, likeliest first."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    max_tokens: longest answer, its stop token included
    temperature: 0 (or less than COLDEST) takes the likeliest token each time (the first of equals)
    top_p: keep the likeliest tokens that together reach this probability; 1: all
    top_k: keep this many of the likeliest tokens (and those equal to the last); 0: all
    n: answers per prompt; answer i is the same whatever n is
    stop_ids: an answer ends with the first of these it draws
    top_logps: tell so many of the likeliest tokens with each that is drawn
    logit_bias: (token, what is added to its score before drawing) each
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    n: int = 1
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    top_logps: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        rules = [
            (self.max_tokens >= 1, "max_tokens", "at least 1"),
            (0 <= self.temperature < float("inf"), "temperature", "0 or more"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
            (self.top_k >= 0, "top_k", "0 or more"),
            (1 <= self.n <= MOST_ANSWERS, "n", f"from 1 to {MOST_ANSWERS:,}"),
            (0 <= self.seed < 2**64, "seed", "from 0 to 2^64 - 1"),
            (0 <= self.top_logps <= MOST_TOPS, "top_logps", f"from 0 to {MOST_TOPS}"),
            (all(math.isfinite(bias) for _, bias in self.logit_bias), "logit_bias", "of finite numbers"),
        ]
        problems = [
            OUT_OF_RANGE.problem(name, value=getattr(self, name), rule=rule) for holds, name, rule in rules if not holds
        ]
        if problems:
            raise ConfigError.of(problems)


@dataclass(frozen=True)
class Draws:
    """What B sequences sample with, one value each."""

    temperature_B: npt.NDArray[np.float32]
    top_p_B: npt.NDArray[np.float32]
    top_k_B: npt.NDArray[np.int64]
    uniform_B: npt.NDArray[np.float64]

    @classmethod
    def of(cls, samplings: list[Sampling], uniform_B: npt.NDArray[np.float64]) -> Draws:
        return cls(
            np.array([s.temperature if s.temperature >= COLDEST else 0.0 for s in samplings], np.float32),
            np.array([s.top_p for s in samplings], np.float32),
            np.array([s.top_k for s in samplings], np.int64),
            uniform_B,
        )


def scores_of(
    logits_BV: Tensor, samplings: Sequence[Sampling], allowed: Sequence[npt.NDArray[np.bool_] | None]
) -> Tensor | None:
    """The scores to draw by: with each sequence's bias, and -inf for what is not allowed to it. None: as they are."""
    if not any(sampling.logit_bias for sampling in samplings) and all(mask is None for mask in allowed):
        return None
    scores_BV = logits_BV.float().clone()
    for scores_V, sampling, mask in zip(scores_BV, samplings, allowed, strict=True):
        if sampling.logit_bias:
            ids, biases = zip(*sampling.logit_bias, strict=True)
            scores_V[torch.tensor(ids, device=scores_V.device)] += torch.tensor(biases, device=scores_V.device)
        if mask is not None:
            scores_V.masked_fill_(torch.from_numpy(~mask).to(scores_V.device), float("-inf"))
    return scores_BV


def likeliest(logps_BV: Tensor, count: int) -> list[Top]:
    """The `count` likeliest tokens of each row."""
    found = logps_BV.topk(min(count, logps_BV.shape[1]))
    return [
        list(zip(ids, logps, strict=True))
        for ids, logps in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def tops_of(logits_BV: Tensor, samplings: Sequence[Sampling]) -> list[Top]:
    """For each sequence the likeliest tokens that its sampling wants."""
    tops: list[Top] = [[] for _ in samplings]
    wanted = {row: sampling.top_logps for row, sampling in enumerate(samplings) if sampling.top_logps}
    if wanted:
        logps_RV = logits_BV[torch.tensor(list(wanted), device=logits_BV.device)].float().log_softmax(-1)
        for (row, count), top in zip(wanted.items(), likeliest(logps_RV, max(wanted.values())), strict=True):
            tops[row] = top[:count]
    return tops


def draw(logits_BV: Tensor, draws: Draws, scores_BV: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The next token of each sequence, int64[B], and its log-probability, float32[B]. `scores_BV` are those to draw by,
    where they are not the model's own (see `scores_of`).

    The log-probability is the model's own: at temperature 1, before bias, top-k and top-p. It equals what
    `llama3.model.score.score` computes for the same token, so it serves as old log-probs; a policy that is scored at
    another temperature takes them from `score`.
    Raises LlamaError if a score is not a finite number.
    """
    likeliest_B, normalizer_B = summary(logits_BV)
    if not bool(normalizer_B.isfinite().all()):
        raise NOT_FINITE("generation")
    if scores_BV is not None:
        likeliest_B = scores_BV.argmax(-1)
    scores_BV = logits_BV.float() if scores_BV is None else scores_BV
    temperature_B = torch.from_numpy(draws.temperature_B).to(logits_BV.device)
    if (draws.temperature_B == 0).all():
        ids_B = likeliest_B
    else:
        # Greedy rows take part with temperature 1 and are put back below.
        divisor_B = torch.where(temperature_B > 0, temperature_B, 1)
        is_plain = np.isin(draws.temperature_B, (0, 1)).all()
        scaled_BV = scores_BV if is_plain else scores_BV / divisor_B[:, None]
        scaled_BV = keep_likeliest(scaled_BV, draws.top_k_B, draws.top_p_B)
        ids_B = _inverse_cdf(scaled_BV, torch.from_numpy(draws.uniform_B).to(logits_BV.device))
        if (draws.temperature_B == 0).any():
            ids_B = torch.where(temperature_B > 0, ids_B, likeliest_B)
    logps_B = logits_BV.gather(1, ids_B[:, None]).squeeze(1).float() - normalizer_B
    return ids_B, logps_B


def summary(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each row's largest scores, int64[B], and log(sum(exp(row))), float32[B]."""
    if is_for_core(logits_BV, math.inf):
        likeliest_B = torch.empty(len(logits_BV), dtype=torch.int64)
        normalizer_B = torch.empty(len(logits_BV))
        _core.summarize_scores(as_array(logits_BV.contiguous()), likeliest_B.numpy(), normalizer_B.numpy())
        return likeliest_B, normalizer_B
    logits_BV = logits_BV.float()
    return logits_BV.argmax(-1), _exp(logits_BV).sum(-1).log_().add_(logits_BV.amax(-1))


def keep_likeliest(logits_BV: Tensor, top_k_B: npt.NDArray[np.int64], top_p_B: npt.NDArray[np.float32]) -> Tensor:
    """The scores with -inf for tokens outside the top k, then outside the top p of what is left."""
    if top_k_B.any():
        wanted = np.where(top_k_B > 0, np.minimum(top_k_B, logits_BV.shape[1]), logits_BV.shape[1])
        limited = top_k_B > 0
        largest = logits_BV.topk(int(wanted[limited].max()), dim=-1).values
        last = torch.from_numpy(np.where(limited, wanted, 1) - 1).to(logits_BV.device)
        cut_B1 = largest.gather(1, last[:, None])
        outside = (logits_BV < cut_B1) & torch.from_numpy(limited).to(logits_BV.device)[:, None]
        logits_BV = logits_BV.masked_fill(outside, float("-inf"))
    if (top_p_B < 1).any():
        p_BV, order_BV = logits_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # A token stays while those before it have not reached the share; so the likeliest always stays.
        before_BV = p_BV.cumsum(-1) - p_BV
        share_B1 = torch.from_numpy(top_p_B).to(logits_BV.device)[:, None]
        drop_BV = (before_BV >= share_B1) & (share_B1 < 1)
        drop_BV[:, 0] = False  # also where the share is less than float32 holds
        outside = torch.empty_like(drop_BV).scatter_(1, order_BV, drop_BV)
        logits_BV = logits_BV.masked_fill(outside, float("-inf"))
    return logits_BV


def _inverse_cdf(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first token at which the cumulative probability exceeds the random number: first its block of tokens, then
    the token in it, so that only sums over blocks run over the whole vocabulary."""
    width = logits_BV.shape[1]
    blocks = -(-width // CDF_BLOCK)
    mass_BNX = _exp(logits_BV, blocks * CDF_BLOCK - width).view(len(logits_BV), blocks, CDF_BLOCK)
    # float64: over 128,256 tokens the rounding errors of float32 sums add up.
    mass_BN = mass_BNX.sum(-1).double()
    block_B, rest_B = _locate(mass_BN, uniform_B * mass_BN.sum(-1))
    rows_B = torch.arange(len(block_B), device=block_B.device)
    inside_B, _ = _locate(mass_BNX[rows_B, block_B].double(), rest_B)
    return block_B * CDF_BLOCK + inside_B


def _locate(mass_BN: Tensor, point_B: Tensor) -> tuple[Tensor, Tensor]:
    """On a line of pieces of the given lengths: the piece on which the point falls (the last one of any length, if it
    falls behind the end), and how far from that piece's start."""
    ends_BN = mass_BN.cumsum(-1)
    total_B = ends_BN[:, -1]
    point_B = torch.minimum(point_B, torch.nextafter(total_B, torch.zeros_like(total_B)))
    piece_B1 = torch.searchsorted(ends_BN, point_B[:, None], right=True)
    start_B = (ends_BN.gather(1, piece_B1) - mass_BN.gather(1, piece_B1)).squeeze(1)
    return piece_B1.squeeze(1), point_B - start_B


def _exp(logits_BV: Tensor, padding: int = 0) -> Tensor:
    """exp(logits - largest logit), [B, V + padding]; the padding is 0."""
    batch, width = logits_BV.shape
    out = logits_BV.new_empty(batch, width + padding)
    out[:, width:] = float("-inf")
    torch.sub(logits_BV, logits_BV.amax(-1, keepdim=True), out=out[:, :width])
    return out.exp_()


def stream_seed(seed: int, prompt: npt.NDArray[np.uint32], fork: int) -> int:
    """64 random-looking bits that belong to one answer."""
    digest = _core.blake3_bytes(seed.to_bytes(8, "little") + fork.to_bytes(8, "little") + prompt.tobytes())
    return int(digest[:16], 16)


def uniforms(seeds_B: npt.NDArray[np.uint64], indices_B: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1), each a function of an answer's seed and the token's index (SplitMix64: Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators", 2014)."""
    with np.errstate(over="ignore"):
        x = seeds_B + (indices_B.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
