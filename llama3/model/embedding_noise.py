"""Noise on the embeddings of a model that is finetuned: NEFTune (Jain et al. 2023, arXiv 2310.05914).

Legend: T tokens, D model dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.model.batch import Batch


def noisy(x_TD: Tensor, forest: Batch, alpha: float) -> Tensor:
    """x + U(-m, m) with m = alpha / sqrt(L D), L being the tokens of the longest sequence that a token stands in.

    Transformers counts the padding of a batch in L; here there is none, and a last token that nothing reads may be left
    out.
    """
    largest_T1 = alpha / (sequence_lengths(forest)[:, None] * x_TD.shape[1]).sqrt()
    return x_TD + torch.empty_like(x_TD).uniform_(-1, 1) * largest_T1


def sequence_lengths(forest: Batch) -> Tensor:
    """Of each token (T,) how long the longest path from a root through it to a leaf is."""
    ends = (forest.positions_T[forest.starts_S1[1:].long() - 1] + 1).tolist()
    for segment, parent in reversed(list(enumerate(forest.parents_S.tolist()))):
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[segment])
    longest_S = torch.tensor(ends, device=forest.tokens_T.device)
    return longest_S.repeat_interleave(forest.lengths_S.to(longest_S.device), output_size=forest.num_tokens)
