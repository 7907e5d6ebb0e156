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
    """Microbatches of at most `budget` tokens in the order of the trees; a larger tree has one of its own."""
    if batch.num_tokens <= budget:
        return [batch]
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


def drop_unscorable(batch: Batch) -> tuple[Batch, int]:
    """Without the segments whose reward is NaN (and without trees of which nothing is left), and how many
    segments with targets that removed. A batch without rewards stays as it is."""
    reward_S = batch.per_segment.get("reward")
    if reward_S is None:
        return batch, 0
    kept = batch.keep(~reward_S.isnan())
    return kept, len(batch.segment_M.unique()) - len(kept.segment_M.unique())
