"""Cutting a batch: microbatches of a token budget, and the counts that make the cut invisible to the gradient.

Legend: S segments, R trees.
"""

from __future__ import annotations

import torch

from llama3.model.batch import Batch
from llama3.training.algorithm import Unit

UNITS: tuple[Unit, ...] = ("target", "segment", "tree")


def count_units(batch: Batch) -> list[int]:
    """How many targets, segments (those that hold a target) and trees a batch trains on, in the order of UNITS."""
    return [batch.num_targets, len(batch.segment_M.unique()), batch.num_trees]


def cut(batch: Batch, budget: int) -> list[Batch]:
    """Microbatches of at most `budget` tokens in the order of the trees; a larger tree has one of its own. None of an
    empty batch."""
    if batch.num_tokens <= budget:
        return [batch] if batch.num_trees else []
    tokens_R = torch.zeros(batch.num_trees, dtype=torch.int64, device=batch.tokens_T.device)
    tokens_R.index_add_(0, batch.tree_S, batch.lengths_S)
    groups: list[list[int]] = [[]]
    used = 0
    for tree, tokens in enumerate(tokens_R.tolist()):
        if groups[-1] and used + tokens > budget:
            groups.append([])
            used = 0
        groups[-1].append(tree)
        used += tokens
    return [batch.select(group) for group in groups]


def drop_unscorable(batch: Batch) -> Batch:
    """Without the answers (segments with targets) whose reward is NaN. A batch without rewards stays as it is."""
    reward_S = batch.per_segment.get("reward")
    if reward_S is None:
        return batch
    return batch.drop_segments(reward_S.isnan() & (batch.targets_per_segment_S > 0), "no_reward")
