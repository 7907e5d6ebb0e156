"""Weighted preference optimization: pairs that the policy would hardly draw itself count less."""

from __future__ import annotations

from torch import Tensor

from llama3.algorithms import Batch, Scored, Term
from llama3_plugins.algorithms.dpo import DPO


class WPO(DPO):
    """Zhou et al. 2024 (arXiv 2406.11827), equation 2, with the alignment of their section 3.3. Needs a reference;
    learns from pairs.

        loss of a pair = w(chosen) * w(rejected) * any loss of `dpo`
        w(y)           = exp(mean_t (log pi(y_t) - log sum_v pi(v)^2)),  as a number

    An answer of the policy itself has a weight of about 1: log sum_v pi(v)^2 is what a token that it draws can expect.
    So pairs of another model's answers are learnt as if they were drawn on policy.
    """

    def pair_weight(self, scored: Scored, batch: Batch) -> Tensor:
        counts_M = self.counts(batch)
        surplus_S = batch.sum_by_segment((scored.logps_M - scored.collision_M).detach() * counts_M)
        weight_S = (surplus_S / batch.sum_by_segment(counts_M).clamp(min=1)).exp()
        return weight_S[batch.child(0)] * weight_S[batch.child(1)]

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """Those of `dpo`, and the mean weight of a pair."""
        weight = Term(self.pair_weight(scored, batch).sum(), per="tree")
        return {**super().metrics(scored, batch), "pair_weight": weight}
