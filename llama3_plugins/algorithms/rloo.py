"""RLOO: each answer is compared with the mean reward of the other answers to its prompt (leave one out)."""

from __future__ import annotations

import torch

from llama3.algorithms import Algorithm, Batch, Plan, Scored, Services, Term
from llama3_plugins.algorithms.options import RLOOOptions


class RLOO(Algorithm):
    """Ahmadian et al. 2024 (arXiv 2402.14740, section 3.4), with PPO's clip on the ratio of the whole answer.

    Needs rollouts, a reward and a reference; learns from prompts. Legend: M targets, S segments.
    """

    def __init__(self, options: RLOOOptions) -> None:
        self.options = options
        self.plan = Plan(options.samples, options.epochs, options.minibatches)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        old_logps_M, is_answer_S = services.policy.logps(batch), batch.per_segment["is_answer"].float()
        kl_S = batch.sum_by_segment(old_logps_M - services.reference.logps(batch))
        reward_S = batch.per_segment["reward"] - self.options.beta * kl_S
        total_S, count_S = (batch.sum_by_tree(x_S)[batch.tree_S] for x_S in (reward_S, is_answer_S))
        # The reward less the mean of the others, (total - reward) / (count - 1); 0 for an answer that is alone.
        advantage_S = (count_S * reward_S - total_S) / (count_S - 1).clamp(min=1) * is_answer_S
        return batch.with_(per_target={"old_logps": old_logps_M}, per_segment={"advantage": advantage_S, "kl": kl_S})

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        ratio_S = batch.sum_by_segment(scored.logps_M - batch.per_target["old_logps"]).exp()
        clipped_S = ratio_S.clamp(1 - self.options.clip, 1 + self.options.clip)
        gain_S = torch.minimum(batch.per_segment["advantage"] * ratio_S, batch.per_segment["advantage"] * clipped_S)
        return {"policy": Term(-gain_S.sum(), per="segment")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"kl": Term(batch.per_segment["kl"].sum(), per="segment")}
