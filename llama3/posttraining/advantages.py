"""What algorithms that learn from sampled answers share: KL estimates, advantages, whitening.

Legend: M targets (answer tokens), S segments, N answers, R trees (prompts), L longest answer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llama3.model.batch import Batch
from llama3.training.algorithm import Stats

LARGEST_LOGRATIO = 20.0
"""Beyond which a log ratio is not exponentiated: a token that the policy would never say makes no infinity."""


def kl_estimate(logps_M: Tensor, ref_logps_M: Tensor, estimator: Literal["k1", "k2", "k3", "abs"]) -> Tensor:
    """KL(policy || reference) from samples of the policy, per token (http://joschu.net/blog/kl-approx.html).

    k1 is unbiased and may be negative; k3 is unbiased, never negative and has less variance. k2 is biased a little, and
    its gradient is that of the KL; abs is the size of k1.
    """
    logratio_M = ref_logps_M - logps_M
    match estimator:
        case "k1":
            return -logratio_M
        case "k2":
            return 0.5 * logratio_M**2
        case "abs":
            return logratio_M.abs()
    near_M = logratio_M.clamp(-LARGEST_LOGRATIO, LARGEST_LOGRATIO)
    return near_M.exp() - 1 - near_M


def whiten(x_M: Tensor, stats: Stats, *, shift_mean: bool = True) -> Tensor:
    """x with unit variance and, with `shift_mean`, mean 0 over the tokens of the whole step, all ranks."""
    mean, std = stats.moments(x_M)
    white_M = (x_M - mean) * torch.rsqrt(std**2 + 1e-8)
    return white_M if shift_mean else white_M + mean


def last_M(batch: Batch) -> Tensor:
    """1 at the last target of each segment, else 0."""
    last = torch.ones(batch.num_targets, device=batch.tokens_T.device)
    last[:-1] = (batch.segment_M[1:] != batch.segment_M[:-1]).float()
    return last


def gae(rewards_M: Tensor, values_M: Tensor, batch: Batch, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438): each answer is an episode that ends
    with its last token."""
    going_on_M = 1 - last_M(batch)
    delta_M = rewards_M + gamma * values_M.roll(-1) * going_on_M - values_M
    _, row_M, lengths_N = torch.unique_consecutive(batch.segment_M, return_inverse=True, return_counts=True)
    column_M = torch.arange(len(row_M), device=row_M.device) - (lengths_N.cumsum(0) - lengths_N)[row_M]
    sums_NL = delta_M.new_zeros(len(lengths_N), int(lengths_N.max()) if len(lengths_N) else 0)
    sums_NL[row_M, column_M] = delta_M
    for t in range(sums_NL.shape[1] - 2, -1, -1):
        sums_NL[:, t] += gamma * lam * sums_NL[:, t + 1]
    return sums_NL[row_M, column_M]


def group_advantages(batch: Batch, scale: Literal["group", "batch", "none"], stats: Stats) -> Tensor:
    """(reward - mean of the prompt's rewards) / (std + 1e-4) of each answer; 0 for prompts.

    The unbiased std is that of the prompt's rewards, of all rewards of the step, or left out. A prompt whose answers
    all have one reward has advantages of exactly 0.
    """
    is_answer_S = batch.per_segment["is_answer"]
    # Sums of float64, so that the mean of equal rewards is that reward.
    reward_S = batch.per_segment["reward"].double()
    count_R = batch.sum_by_tree(is_answer_S.double())
    advantage_S = (reward_S - (batch.sum_by_tree(reward_S) / count_R)[batch.tree_S]) * is_answer_S
    if scale == "group":
        std_R = (batch.sum_by_tree(advantage_S**2) / (count_R - 1).clamp(min=1)).sqrt()
        advantage_S = advantage_S / (std_R[batch.tree_S] + 1e-4)
    elif scale == "batch":
        advantage_S = advantage_S / (stats.moments(reward_S[is_answer_S])[1] + 1e-4)
    return advantage_S.float()
