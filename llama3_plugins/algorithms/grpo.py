"""Group relative policy optimization: an answer is as good as it is better than the other answers to its prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Plan, Scored, Services, Term, group_advantages, kl_estimate
from llama3_plugins.algorithms.options import GRPOOptions, Reduction


class GRPO(Algorithm):
    """Shao et al. 2024 (arXiv 2402.03300, equation 3), with the reductions and scales that came after it.

        A      = (reward - mean of the prompt's rewards) / (their std + 1e-4)
        policy = -min(A * rho_t, A * clip(rho_t, 1 - clip_low, 1 + clip_high)),  rho_t = pi(t) / pi_old(t)
        KL     = pi_ref(t) / pi(t) - 1 - log(pi_ref(t) / pi(t))
        loss   = tokens of an answer and answers reduced over (policy + beta * KL)

    With `importance: sequence` rho is one number per answer, exp(mean_t log rho_t) (GSPO, 2507.18071). With one update
    per step (epochs 1, minibatches 1) pi_old is pi itself and needs no forward of its own. A prompt whose answers have
    equal rewards teaches nothing: `frac_reward_zero_std` counts them.

    Needs prompts, rollouts, a reward; a reference too where beta > 0. Sample with top_p 1: log-probs are those of the
    whole distribution at the sampler's temperature.
    Legend: M targets (answer tokens), S segments.
    """

    def __init__(self, options: GRPOOptions) -> None:
        self.options = options
        self.plan = Plan(options.samples, options.epochs, options.minibatches)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        advantage_S = group_advantages(batch, self.options.scale_rewards, services.stats)
        columns = {
            "advantages": advantage_S[batch.segment_M],
            "weights": token_weights(self.options.reduction, batch, services),
        }
        if self.plan.epochs * self.plan.minibatches > 1:
            columns["old_logps"] = services.policy.logps(batch)
        if self.options.beta > 0:
            columns["ref_logps"] = services.reference.logps(batch)
        return batch.with_(per_target=columns)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        advantages_M, weights_M = batch.per_target["advantages"], batch.per_target["weights"]
        ratio_M = self._ratios(scored, batch)
        clipped_M = ratio_M.clamp(1 - self.options.clip_low, 1 + self.options.clip_high)
        policy_M = -torch.minimum(advantages_M * ratio_M, advantages_M * clipped_M)
        per = unit(self.options.reduction)
        terms = {"policy": Term((policy_M * weights_M).sum(), per)}
        if self.options.beta > 0:
            kl_M = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], "k3")
            terms["kl"] = Term((kl_M * weights_M).sum(), per, self.options.beta)
        return terms

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names; means over answer tokens."""
        advantages_M, ratio_M = batch.per_target["advantages"], self._ratios(scored, batch)
        low_M = (ratio_M < 1 - self.options.clip_low) & (advantages_M < 0)
        high_M = (ratio_M > 1 + self.options.clip_high) & (advantages_M > 0)
        columns = {
            "entropy": scored.entropy_M,
            "clip_ratio/low_mean": low_M.float(),
            "clip_ratio/high_mean": high_M.float(),
            "clip_ratio/region_mean": (low_M | high_M).float(),
        }
        if self.options.beta > 0:
            columns["kl"] = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], "k3")
        return {name: Term(column_M.sum(), per="target") for name, column_M in columns.items()}

    def _ratios(self, scored: Scored, batch: Batch) -> Tensor:
        """pi / pi_old: of each token, or of its whole answer."""
        old_M = batch.per_target.get("old_logps", scored.logps_M.detach())
        logratio_M = scored.logps_M - old_M
        if self.options.importance == "sequence":
            logratio_M = batch.mean_by_segment(logratio_M)[batch.segment_M]
        return logratio_M.exp()


def unit(reduction: Reduction) -> Literal["target", "segment"]:
    """What a reduced loss is a mean over."""
    return "target" if reduction == "bnpo" else "segment"


def token_weights(reduction: Reduction, batch: Batch, services: Services) -> Tensor:
    """Weight (M,) of each token in a sum over answers (`unit`), which makes the sum the wanted mean.

    grpo: mean over answers of means over their tokens; dapo: over all tokens, an update's share of the whole step's;
    bnpo: over the tokens of the update; dr_grpo: sum over tokens by the longest possible length, blind to the actual.
    """
    lengths_S = batch.targets_per_segment_S
    if reduction == "grpo":
        return 1 / lengths_S[batch.segment_M]
    one_M = torch.ones(batch.num_targets, device=batch.tokens_T.device)
    if reduction == "bnpo":
        return one_M
    if reduction == "dr_grpo":
        return one_M / services.sampling.max_tokens
    is_answer_S = batch.per_segment["is_answer"]
    answers, tokens = services.stats.sum(torch.stack([is_answer_S.sum(), lengths_S.sum()])).tolist()
    return one_M * (answers / max(tokens, 1))
