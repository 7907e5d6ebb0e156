"""REINFORCE++: PPO's clipped step without a critic, its advantages normalised over the whole step."""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.algorithms import (
    Algorithm,
    Batch,
    Plan,
    Scored,
    Services,
    Term,
    gae,
    group_advantages,
    kl_estimate,
    last_M,
    whiten,
)
from llama3_plugins.algorithms.clipping import clipped_fraction, clipped_policy
from llama3_plugins.algorithms.options import ReinforcePPOptions


class ReinforcePP(Algorithm):
    """Hu et al. 2025 (arXiv 2501.03262).

        baseline none:   r_t = -kl_coef * KL_t, and the answer's reward on its last token
                         A_t = sum_k gamma^k r_{t+k}                                            (section 3.1)
        baseline group:  A_t = reward - mean of the prompt's rewards                            (section 3.2)
                         and the KL is a term of the loss, kl_coef * KL_t
        both:            A_t less its mean, by its std, over all answer tokens of the step
        policy           = -min(A_t * rho_t, A_t * clip(rho_t, 1 - clip, 1 + clip)),  rho_t = pi(t) / pi_old(t)
        loss             = mean over answer tokens

    With one update per step (epochs 1, minibatches 1) pi_old is pi itself and needs no forward of its own.

    Needs prompts, rollouts, a reward and a reference (asked only where kl_coef is above 0). Legend: M targets.
    """

    def __init__(self, options: ReinforcePPOptions) -> None:
        self.options = options
        self.plan = Plan(options.samples, options.epochs, options.minibatches)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        columns: dict[str, Tensor] = {}
        has_kl, in_reward = self.options.kl_coef > 0, self.options.baseline == "none"
        if has_kl:
            columns["ref_logps"] = services.reference.logps(batch)
        if self.plan.epochs * self.plan.minibatches > 1 or (has_kl and in_reward):
            columns["old_logps"] = services.policy.logps(batch)
        if in_reward:
            rewards_M = batch.per_segment["reward"][batch.segment_M] * last_M(batch)
            if has_kl:
                kl_M = kl_estimate(columns["old_logps"], columns["ref_logps"], self.options.kl_estimator)
                rewards_M = rewards_M - self.options.kl_coef * kl_M
            # Without a critic and with lambda 1 an advantage is the discounted sum of what is still to come.
            advantages_M = gae(rewards_M, torch.zeros_like(rewards_M), batch, self.options.gamma, 1.0)
        else:
            advantages_M = group_advantages(batch, "none", services.stats)[batch.segment_M]
        return batch.with_(per_target={"advantages": whiten(advantages_M, services.stats), **columns})

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        policy_M = clipped_policy(batch.per_target["advantages"], self._ratios(scored, batch), self.options.clips)
        terms = {"policy": Term(policy_M.sum(), per="target")}
        if self.options.kl_coef > 0 and self.options.baseline == "group":
            kl_M = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], self.options.kl_estimator)
            terms["kl"] = Term(kl_M.sum(), per="target", weight=self.options.kl_coef)
        return terms

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names; means over answer tokens."""
        advantages_M, ratio_M = batch.per_target["advantages"], self._ratios(scored, batch)
        columns = {"entropy": scored.entropy_M} | clipped_fraction(advantages_M, ratio_M, self.options.clips)
        if self.options.kl_coef > 0:
            columns["kl"] = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], self.options.kl_estimator)
        return {name: Term(column_M.sum(), per="target") for name, column_M in columns.items()}

    def _ratios(self, scored: Scored, batch: Batch) -> Tensor:
        return (scored.logps_M - batch.per_target.get("old_logps", scored.logps_M.detach())).exp()
