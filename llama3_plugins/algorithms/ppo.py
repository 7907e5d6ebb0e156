"""Proximal policy optimization: sampled answers, a learnt baseline, a clipped step, a pull towards the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llama3.algorithms import (
    Algorithm,
    Batch,
    FinishReason,
    Plan,
    Scored,
    Services,
    Stats,
    Term,
    gae,
    kl_estimate,
    last_M,
    whiten,
)
from llama3_plugins.algorithms.after_end import said, with_step_after_end
from llama3_plugins.algorithms.clipping import clipped_policy
from llama3_plugins.algorithms.options import PPOOptions


class PPO(Algorithm):
    """Schulman et al. 2017 (arXiv 1707.06347, equation 9) with the KL penalty of Ziegler et al. 2019 (1909.08593).

        r_t    = -kl_coef * KL_t, and the answer's reward on its last token
        A_t    = sum_k (gamma * lam)^k (r_{t+k} + gamma * V_{t+k+1} - V_{t+k})      GAE (1506.02438)
        policy = -min(A_t * rho_t, A_t * clip(rho_t, 1 - clip, 1 + clip)),  rho_t = pi(t) / pi_old(t)
        value  = max((V_t - G_t)^2, (clip(V_t, V_old +- clip_value) - G_t)^2) / 2,  G_t = A_t + V_old
        loss   = mean over answer tokens of policy + vf_coef * value

    A_t in `policy` is whitened over the whole step; G_t is made of the unwhitened one. Log-probs of policy, reference
    and old policy are all those of the distribution that was sampled from, at its temperature (sample with top_p 1:
    a truncated distribution is another one).

    With `score_at: after_end` an answer that ends has one step more, the state after its end token: the reward stands
    there, and its value is learnt (as in TRL, where it is the first padding token).

    Needs prompts, rollouts, a reward, a reference and a value head on the policy's trunk, which starts at zero.
    Legend: M targets (answer tokens), S segments, R trees (prompts).
    """

    def __init__(self, options: PPOOptions) -> None:
        self.options = options
        self.plan = Plan(options.samples, options.epochs, options.minibatches)
        self.kl_coef = options.kl_coef

    def prepare(self, batch: Batch, services: Services) -> Batch:
        if self.options.score_at == "after_end":
            batch = with_step_after_end(batch, services.sampling.max_tokens)
        said_M = said(batch)
        old_logps_M, values_M = services.policy.logps(batch), services.value.values(batch)
        kl_M = kl_estimate(old_logps_M, services.reference.logps(batch), self.options.kl_estimator) * said_M
        scores_S = self._scores(batch)
        rewards_M = -self.kl_coef * kl_M + scores_S[batch.segment_M] * last_M(batch)
        if self.options.whiten_rewards:
            rewards_M = whiten(rewards_M, services.stats, shift_mean=False)
        advantages_M = gae(rewards_M, values_M, batch, self.options.gamma, self.options.lam)
        white_M = whiten(advantages_M[said_M], services.stats)
        steps, tokens = services.stats.sum(torch.tensor([len(said_M), len(white_M)], device=kl_M.device)).tolist()
        columns = {
            "old_logps": old_logps_M,
            "old_values": values_M,
            "returns": advantages_M + values_M,
            "advantages": torch.zeros_like(advantages_M).masked_scatter(said_M, white_M),
            # The policy's means are over tokens, those of values over all steps.
            "policy_share": said_M * (steps / max(tokens, 1)),
        }
        objective = self._objective(batch, kl_M, old_logps_M * said_M, scores_S, services.stats)
        return batch.with_(per_target=columns, per_tree=objective)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        advantages_M, returns_M = batch.per_target["advantages"], batch.per_target["returns"]
        policy_M = clipped_policy(advantages_M, self._ratios(scored, batch), self.options.clips)
        value_M = 0.5 * torch.maximum(
            (scored.values_M - returns_M) ** 2, (self._near_old(scored, batch) - returns_M) ** 2
        )
        return {
            "policy": Term((policy_M * batch.per_target["policy_share"]).sum(), per="target"),
            "value": Term(value_M.sum(), per="target", weight=self.options.vf_coef),
        }

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """TRL's names. `objective/...` are sums over an answer's tokens, averaged over the answers of the step."""
        advantages_M, returns_M = batch.per_target["advantages"], batch.per_target["returns"]
        ratio_M = self._ratios(scored, batch)
        clipped_M = ratio_M.clamp(1 - self.options.clip, 1 + self.options.clip)
        near_M = self._near_old(scored, batch)
        logratio_M = scored.logps_M - batch.per_target["old_logps"]
        per_token = {
            "policy/approxkl_avg": 0.5 * logratio_M**2,
            "policy/clipfrac_avg": (advantages_M * clipped_M < advantages_M * ratio_M).float(),
            "policy/entropy_avg": scored.entropy_M,
            "val/clipfrac_avg": ((near_M - returns_M) ** 2 > (scored.values_M - returns_M) ** 2).float(),
            "val/ratio": ratio_M,
        }
        of_step = {name: column_R for name, column_R in batch.per_tree.items() if name.startswith("objective/")}
        share_M = batch.per_target["policy_share"]
        of_policy = {name: column_M * share_M for name, column_M in per_token.items() if name != "val/clipfrac_avg"}
        return {
            **{name: Term(column_R.sum(), per="tree") for name, column_R in of_step.items()},
            **{name: Term(column_M.sum(), per="target") for name, column_M in (per_token | of_policy).items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kl_coef = float(state["kl_coef"])

    def _scores(self, batch: Batch) -> Tensor:
        """The reward of each answer within its bounds, less the penalty of those that did not end."""
        reward_S, most = batch.per_segment["reward"], self.options.reward_clip
        if most is not None:
            reward_S = reward_S.clamp(-most, most)
        cut_off_S = batch.per_segment["finish_reason"] == FinishReason.LENGTH
        return reward_S - self.options.missing_eos_penalty * cut_off_S

    def _ratios(self, scored: Scored, batch: Batch) -> Tensor:
        """pi / pi_old of each token."""
        return (scored.logps_M - batch.per_target["old_logps"]).exp()

    def _near_old(self, scored: Scored, batch: Batch) -> Tensor:
        """The values, kept within `clip_value` of what they were when the answers were drawn."""
        old_M = batch.per_target["old_values"]
        return old_M + (scored.values_M - old_M).clamp(-self.options.clip_value, self.options.clip_value)

    def _objective(
        self, batch: Batch, kl_M: Tensor, old_logps_M: Tensor, scores_S: Tensor, stats: Stats
    ) -> dict[str, Tensor]:
        """Means over all answers of the step as constant columns, so that they are the same in every microbatch; the
        KL coefficient then moves towards its target."""
        parts = [kl_M, -old_logps_M, scores_S, batch.per_segment["is_answer"]]
        *sums, count = stats.sum(torch.stack([part.sum() for part in parts])).tolist()
        kl, entropy, score = (total / max(count, 1.0) for total in sums)
        means = {
            "objective/kl": kl,
            "objective/entropy": entropy,
            "objective/scores": score,
            "objective/non_score_reward": -self.kl_coef * kl,
            "objective/rlhf_reward": score - self.kl_coef * kl,
            "objective/kl_coef": self.kl_coef,
        }
        if self.options.kl_target is not None:
            error = min(max(kl / self.options.kl_target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + error * count / self.options.kl_horizon
        return {name: torch.full((batch.num_trees,), mean, device=kl_M.device) for name, mean in means.items()}
