"""Online DPO: preference losses on pairs of the policy's own fresh answers."""

from __future__ import annotations

import torch

from llama3.algorithms import Batch, FinishReason, Plan, Services
from llama3_plugins.algorithms.choices import pick
from llama3_plugins.algorithms.options import OnlineDPOOptions
from llama3_plugins.algorithms.preference_losses import PreferenceAlgorithm


class OnlineDPO(PreferenceAlgorithm):
    """Guo et al. 2024. Needs rollouts, a reward and a reference; learns from prompts.

        K answers y ~ pi(y|x);  chosen = the best, rejected = the worst by reward;  then any loss of `dpo`

    Among equal rewards the likelier answer is taken on both sides: the success to secure, the mistake to unlearn. A
    prompt whose answers have one reward, or of which fewer than two can be scored, makes no pair: it is dropped and
    counted.

    Legend: M targets, R trees (prompts).
    """

    options: OnlineDPOOptions

    def __init__(self, options: OnlineDPOOptions) -> None:
        super().__init__(options)
        self.plan = Plan(samples=options.samples)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        return self.columns(pair_up(batch), services)


def pair_up(drawn: Batch) -> Batch:
    """Each prompt with its best and its worst answer, in this order, where these differ in reward. Column:
    per_target["is_format"] (the end token, where the answer has one)."""
    reward_S = drawn.per_segment["reward"]
    chosen, rejected = pick(drawn, reward_S), pick(drawn, -reward_S)
    pairs = drawn.with_children(torch.stack([chosen, rejected], dim=1))
    pairs = pairs.drop(reward_S[chosen] == reward_S[rejected], "no_pair")
    ended_M = pairs.per_segment["finish_reason"][pairs.segment_M] == FinishReason.STOP
    last_M = pairs.targets_M == pairs.starts_S1[pairs.segment_M + 1] - 1
    return pairs.with_(per_target={"is_format": ended_M & last_M})
