"""Direct preference optimization as Llama 3 uses it: format tokens masked, NLL on the chosen answer (paper 4.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.posttraining.datasets import PairExample, collate_pairs
from llama3.training.algorithm import Algorithm, Services, Term
from llama3_plugins.algorithms.options import DPOOptions


class DPO(Algorithm):
    """Rafailov et al. 2023, equation 7, plus the NLL term of Pang et al. 2024.

        -log sigmoid(beta * (margin(chosen) - margin(rejected))) + nll_weight * NLL(chosen)

    where a margin is the answer's log-prob minus the reference's, summed over its content tokens. The mask takes out
    tokens that both answers share by format and would be pushed both ways at once; the NLL term keeps them, because
    it is what preserves the format.

    Legend: M targets, S segments, R trees (pairs).
    """

    def __init__(self, options: DPOOptions) -> None:
        self.options = options

    def collate(self, examples: Sequence[PairExample]) -> Batch:
        return collate_pairs(examples)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        return batch.with_(
            per_target={"ref_logps": services.reference.logps(batch), "nll_share": self._nll_share(batch, services)}
        )

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        margin_S = self._margins(scored, batch)
        preference_R = -F.logsigmoid(self.options.beta * (margin_S[batch.child(0)] - margin_S[batch.child(1)]))
        nll = -(scored.logps_M * batch.per_target["nll_share"]).sum()
        return {
            "preference": Term(preference_R.sum(), per="tree"),
            "nll": Term(nll, per="tree", weight=self.options.nll_weight),
        }

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        """TRL's names; a tie counts as wrong, so step 0 reads 0 accuracy."""
        margin_S, logps_S = self._margins(scored, batch), batch.sum_by_segment(scored.logps_M)
        chosen, rejected = batch.child(0), batch.child(1)
        beta = self.options.beta
        return {
            "rewards/chosen": beta * margin_S[chosen].mean(),
            "rewards/rejected": beta * margin_S[rejected].mean(),
            "rewards/margins": beta * (margin_S[chosen] - margin_S[rejected]).mean(),
            "rewards/accuracies": (margin_S[chosen] > margin_S[rejected]).float().mean(),
            "logps/chosen": logps_S[chosen].mean(),
            "logps/rejected": logps_S[rejected].mean(),
        }

    def _margins(self, scored: Scored, batch: Batch) -> Tensor:
        ratio_M = scored.logps_M - batch.per_target["ref_logps"]
        if self.options.mask_format:
            ratio_M = ratio_M.masked_fill(batch.per_target["is_format"], 0.0)
        return batch.sum_by_segment(ratio_M)

    def _nll_share(self, batch: Batch, services: Services) -> Tensor:
        """Weight of each target in the sum over pairs of the NLL: its answer's mean, or the mean over all tokens."""
        chosen_S = torch.zeros(batch.num_segments, device=batch.tokens_T.device)
        chosen_S[batch.child(0)] = 1.0
        chosen_M = chosen_S[batch.segment_M]
        if self.options.nll_reduction == "sequence_mean":
            return chosen_M / batch.targets_per_segment_S[batch.segment_M]
        pairs, tokens = services.stats.sum(torch.stack([chosen_S.sum(), chosen_M.sum()]))
        return chosen_M * (pairs / tokens)
