"""A reward model: the score of a better answer lies above that of a worse one (paper 4.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Scored, Term, pack_rankings
from llama3_plugins.algorithms.options import RewardModelOptions
from llama3_plugins.data_kinds.pairs import PairExample


class RewardModel(Algorithm):
    """Bradley-Terry over every pair of a ranking (Ouyang et al. 2022, equation 1). Needs a score head.

        mean over (better, worse) of  -log sigmoid(s(better) - s(worse) - margin) + centering * (s(better) + s(worse))^2

    The score s is read at an answer's end token. A ranking edited > chosen > rejected gives three pairs, averaged per
    prompt, so that a prompt with more answers does not weigh more. As in the paper there is no margin by default; a
    row's own one (Llama 2, equation 2) is added where the worse answer is the last of its ranking. All answers of a
    prompt stand in one row; they do not see each other, so their order does not matter. `centering` (Eisenstein et al.
    2023) keeps scores around 0, which a preference alone leaves open.

    Legend: S segments, P pairs of answers to one prompt.
    """

    def __init__(self, options: RewardModelOptions) -> None:
        self.options = options

    def collate(self, examples: Sequence[PairExample]) -> Batch:
        return pack_rankings(
            [(pair.prompt, pair.ranking) for pair in examples], {"margin": [pair.margin for pair in examples]}
        )

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        better, worse, share_P = _pairs(batch)
        better_P, worse_P = scored.score_S[better], scored.score_S[worse]
        preference = -F.logsigmoid(better_P - worse_P - self.options.margin - _margins(batch, worse))
        terms = {"preference": Term((share_P * preference).sum(), per="tree")}
        if self.options.centering:
            centre = (share_P * (better_P + worse_P) ** 2).sum()
            terms["centering"] = Term(centre, per="tree", weight=self.options.centering)
        return terms

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names; averaged per prompt as the loss is, and a tie counts as wrong."""
        better, worse, share_P = _pairs(batch)
        margin_P = scored.score_S[better] - scored.score_S[worse]
        return {
            "accuracy": Term((share_P * (margin_P > 0)).sum(), per="tree"),
            "margin": Term((share_P * margin_P).sum(), per="tree"),
            "mean_reward": Term(scored.score_S[batch.parents_S >= 0].sum(), per="segment"),
        }


def _pairs(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The segments (better, worse) of every pair of answers to one prompt, and its share of the prompt's pairs."""
    place_S = batch.per_segment["place"]
    answers = (batch.parents_S >= 0).nonzero().squeeze(-1)
    place, tree = place_S[answers], batch.tree_S[answers]
    better, worse = ((tree[:, None] == tree) & (place[:, None] < place)).nonzero(as_tuple=True)
    better, worse = answers[better], answers[worse]
    share_P = 1.0 / torch.bincount(batch.tree_S[better], minlength=batch.num_trees)[batch.tree_S[better]]
    return better, worse, share_P


def _margins(batch: Batch, worse_P: Tensor) -> Tensor:
    """The margin of its row for each pair whose worse answer is the last one, else 0; of rows without margins 0."""
    if "margin" not in batch.per_tree:
        return torch.zeros(len(worse_P), device=worse_P.device)
    tree_P = batch.tree_S[worse_P]
    answers_R = torch.bincount(batch.tree_S[batch.parents_S >= 0], minlength=batch.num_trees)
    is_last_P = batch.per_segment["place"][worse_P] == answers_R[tree_P] - 1
    return batch.per_tree["margin"][tree_P] * is_last_P
