"""Choosing among the answers that were drawn to a prompt.

Legend: S segments, R trees (prompts).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.algorithms import Batch


def pick(batch: Batch, value_S: Tensor) -> Tensor:
    """The answer (segment) of each tree with the highest value; of several such the one that the policy found most
    likely per token, then the one drawn first."""
    answers = batch.per_segment["is_answer"].nonzero().squeeze(-1)
    logp_S = batch.mean_by_segment(batch.per_target["sample_logps"])
    order = answers[logp_S[answers].argsort(descending=True, stable=True)]
    order = order[value_S[order].argsort(descending=True, stable=True)]
    order = order[batch.tree_S[order].argsort(stable=True)]
    counts_R = torch.bincount(batch.tree_S[answers], minlength=batch.num_trees)
    return order[counts_R.cumsum(0) - counts_R]
