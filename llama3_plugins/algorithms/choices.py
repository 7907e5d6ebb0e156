"""Choosing among the answers that were drawn to a prompt.

Legend: S segments, R trees (prompts).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.model.batch import Batch


def pick(batch: Batch, value_S: Tensor) -> Tensor:
    """The answer (segment) of each tree with the highest value; of several such the one that the policy found most
    likely per token, then the one drawn first. NaN is chosen only where a tree has nothing else."""
    answers = (batch.parents_S >= 0).nonzero().squeeze(-1)
    logp_S = batch.mean_by_segment(batch.per_target["sample_logps"])
    order = answers[logp_S[answers].argsort(descending=True, stable=True)]
    value = torch.where(value_S.isnan(), -torch.inf, value_S)[order]
    order = order[value.argsort(descending=True, stable=True)]
    order = order[batch.tree_S[order].argsort(stable=True)]
    counts_R = torch.bincount(batch.tree_S[answers], minlength=batch.num_trees)
    return order[counts_R.cumsum(0) - counts_R]


def dropping(batch: Batch, drop_R: Tensor) -> Batch:
    """Mark the answers of these trees as without a reward: the loop drops and counts them."""
    reward_S = batch.per_segment["reward"]
    return batch.with_(per_segment={"reward": reward_S.masked_fill(drop_R[batch.tree_S], torch.nan)})
