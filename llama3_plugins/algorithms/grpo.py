"""Group relative policy optimization: an answer is as good as it is better than the other answers to its prompt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Plan, Scored, Services, Term, group_advantages, kl_estimate
from llama3_plugins.algorithms.clipping import clipped_fraction, clipped_policy
from llama3_plugins.algorithms.options import GRPOOptions, Reduction
from llama3_plugins.algorithms.sampler_mismatch import correction, require_comparable

LARGEST_LOGRATIO = 20.0
"""Of a token, and of an answer, that `vespo` exponentiates."""
LEAST_RATIO = 1e-8
"""Of an answer that `vespo` takes a power of."""
SAPO_TEMPERATURES = (1.0, 1.05)
"""Of good and of bad tokens (2511.20347, section 4): bad ones are let go sooner."""
VESPO_GOOD, VESPO_BAD = (2.0, 3.0), (3.0, 2.0)
"""Power k and slope lambda of good and of bad answers, as in TRL."""


class GRPO(Algorithm):
    """Shao et al. 2024 (arXiv 2402.03300, equation 3), with the reductions, scales and surrogates that came after it.

        A      = (reward - mean of the prompt's rewards) / (their std + 1e-4)
        policy = -min(A * rho_t, A * clip(rho_t, 1 - clip_low, 1 + clip_high)),  rho_t = pi(t) / pi_old(t)
        KL     = pi_ref(t) / pi(t) - 1 - log(pi_ref(t) / pi(t))
        loss   = tokens of an answer and answers reduced over (policy + beta * KL)

    Another `surrogate` is another `policy`; w is a weight without gradient, W the ratio of the whole answer:

        cispo    -w A log pi(t),  w = min(rho_t, 1 + clip_high)                      2506.13585, equation 4
        sapo     -A s(tau (rho_t - 1)) 4 / tau,  s the logistic function             2511.20347, equation 6
        vespo    -w A log pi(t),  w = exp(lambda) W^k exp(-lambda W)                 as in TRL

    With `importance: sequence` rho is one number per answer, exp(mean_t log rho_t) (GSPO, 2507.18071). With one update
    per step (epochs 1, minibatches 1) pi_old is pi itself and needs no forward of its own. `sampler_correction` weighs
    `policy` by pi_old / pi_sampler (llama3_plugins.algorithms.sampler_mismatch). A prompt whose answers have equal
    rewards teaches nothing: `frac_reward_zero_std` counts them.

    Needs prompts, rollouts, a reward; a reference too where beta > 0. Sample with top_p 1: log-probs are those of the
    whole distribution at the sampler's temperature.
    Legend: M targets (answer tokens), S segments.
    """

    def __init__(self, options: GRPOOptions) -> None:
        self.options = options
        self.plan = Plan(options.samples, options.epochs, options.minibatches)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        options = self.options
        advantage_S = group_advantages(batch, options.scale_rewards, services.stats)
        columns = {
            "advantages": advantage_S[batch.segment_M],
            "weights": token_weights(options.reduction, batch, services),
        }
        if self.plan.epochs * self.plan.minibatches > 1 or options.sampler_correction != "none":
            columns["old_logps"] = services.policy.logps(batch)
        if options.sampler_correction != "none":
            require_comparable(services.sampling)
            gap_M = columns["old_logps"] - batch.per_target["sample_logps"]
            columns["sampler_gap"] = gap_M
            columns["sampler_weight"] = correction(batch, gap_M, options.sampler_correction, options.sampler_cap)
        if options.beta > 0:
            columns["ref_logps"] = services.reference.logps(batch)
        return batch.with_(per_target=columns)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        weights_M, per = batch.per_target["weights"], unit(self.options.reduction)
        policy_M = self._policy(scored, batch)
        if "sampler_weight" in batch.per_target:
            policy_M = policy_M * batch.per_target["sampler_weight"]
        terms = {"policy": Term((policy_M * weights_M).sum(), per)}
        if self.options.beta > 0:
            kl_M = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], "k3")
            terms["kl"] = Term((kl_M * weights_M).sum(), per, self.options.beta)
        return terms

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names; means over answer tokens."""
        advantages_M, ratio_M = batch.per_target["advantages"], self._ratios(scored, batch)
        columns = {"entropy": scored.entropy_M} | clipped_fraction(advantages_M, ratio_M, self.options.clips)
        if self.options.beta > 0:
            columns["kl"] = kl_estimate(scored.logps_M, batch.per_target["ref_logps"], "k3")
        if "sampler_weight" in batch.per_target:
            columns["sampling/sampling_logp_difference/mean"] = batch.per_target["sampler_gap"].abs()
            columns["sampling/importance_sampling_ratio/mean"] = batch.per_target["sampler_weight"]
        return {name: Term(column_M.sum(), per="target") for name, column_M in columns.items()}

    def _policy(self, scored: Scored, batch: Batch) -> Tensor:
        """The policy's loss (M,) at every token."""
        advantages_M, ratio_M = batch.per_target["advantages"], self._ratios(scored, batch)
        match self.options.surrogate:
            case "clip":
                return clipped_policy(advantages_M, ratio_M, self.options.clips)
            case "cispo":
                return -ratio_M.clamp(max=1 + self.options.clip_high).detach() * advantages_M * scored.logps_M
            case "sapo":
                good, bad = SAPO_TEMPERATURES
                tau_M = torch.where(advantages_M > 0, good, bad)
                return -advantages_M * torch.sigmoid(tau_M * (ratio_M - 1)) * 4 / tau_M
            case "vespo":
                return -self._gamma_weights(scored, batch) * advantages_M * scored.logps_M

    @torch.no_grad()
    def _gamma_weights(self, scored: Scored, batch: Batch) -> Tensor:
        """exp(lambda) W^k exp(-lambda W) of each token's answer: 1 where its ratio W is 1."""
        near_M = self._logratios(scored, batch).clamp(-LARGEST_LOGRATIO, LARGEST_LOGRATIO)
        log_w_M = batch.sum_by_segment(near_M)[batch.segment_M]
        log_w_M = log_w_M.clamp(torch.tensor(LEAST_RATIO).log().item(), LARGEST_LOGRATIO)
        good_M = batch.per_target["advantages"] >= 0
        k_M, slope_M = (torch.where(good_M, good, bad) for good, bad in zip(VESPO_GOOD, VESPO_BAD, strict=True))
        return (slope_M + k_M * log_w_M - slope_M * log_w_M.exp()).exp()

    def _logratios(self, scored: Scored, batch: Batch) -> Tensor:
        return scored.logps_M - batch.per_target.get("old_logps", scored.logps_M.detach())

    def _ratios(self, scored: Scored, batch: Batch) -> Tensor:
        """pi / pi_old: of each token, or of its whole answer."""
        logratio_M = self._logratios(scored, batch)
        if self.options.importance == "sequence":
            logratio_M = batch.mean_by_segment(logratio_M)[batch.segment_M]
        return logratio_M.exp()


def unit(reduction: Reduction) -> Literal["target", "segment"]:
    """What a reduced loss is a mean over."""
    return "target" if reduction == "bnpo" else "segment"


def token_weights(reduction: Reduction, batch: Batch, services: Services) -> Tensor:
    """Weight (M,) of each token in a sum over answers (`unit`), which makes the sum the wanted mean.

    grpo: mean over answers of means over their tokens; luspo: of their sums; dapo: over all tokens, an update's
    share of the whole step's; bnpo: over the tokens of the update; dr_grpo: sum over tokens by the longest possible
    length, blind to the actual.
    """
    lengths_S = batch.targets_per_segment_S
    if reduction == "grpo":
        return 1 / lengths_S[batch.segment_M]
    one_M = torch.ones(batch.num_targets, device=batch.tokens_T.device)
    if reduction in ("bnpo", "luspo"):
        return one_M
    if reduction == "dr_grpo":
        return one_M / services.sampling.max_tokens
    is_answer_S = batch.per_segment["is_answer"]
    answers, tokens = services.stats.sum(torch.stack([is_answer_S.sum(), lengths_S.sum()])).tolist()
    return one_M * (answers / max(tokens, 1))
