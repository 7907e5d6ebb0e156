"""Online DPO: preference losses on pairs of the policy's own fresh answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llama3.inference import FinishReason
from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.training.algorithm import Plan, Services
from llama3_plugins.algorithms.choices import dropping, pick
from llama3_plugins.algorithms.options import OnlineDPOOptions
from llama3_plugins.algorithms.preference_losses import PreferenceAlgorithm
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts


class OnlineDPO(PreferenceAlgorithm):
    """Guo et al. 2024. Needs rollouts, a reward and a reference; learns from prompts.

        K answers y ~ pi(y|x);  chosen = the best, rejected = the worst by reward;  then any loss of `dpo`

    Among equal rewards the likelier answer is taken on both sides: the success to secure, the mistake to unlearn. A
    prompt whose answers have one reward, or of which fewer than two can be scored, makes no pair: it is dropped and
    counted; `no_pair` is the share of such prompts in a step.

    Legend: S segments, R trees (prompts).
    """

    options: OnlineDPOOptions

    def __init__(self, options: OnlineDPOOptions) -> None:
        super().__init__(options)
        self.plan = Plan(samples=options.samples)

    def collate(self, examples: Sequence[PromptExample]) -> Batch:
        return Prompts().collate(examples)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        drawn = services.reward.score(services.sampler.rollouts(batch, self.plan.samples))
        return self.columns(pair_up(drawn), services)

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        return {**super().metrics(scored, batch), "no_pair": batch.per_tree["no_pair"].mean()}


def pair_up(drawn: Batch) -> Batch:
    """Each prompt with its best and its worst answer, in this order; prompts without a pair have no reward. Columns:
    per_target["is_format"] (the end token, where the answer has one), per_tree["no_pair"] (the step's share)."""
    reward_S = drawn.per_segment["reward"]
    chosen, rejected = pick(drawn, reward_S), pick(drawn, -reward_S)
    no_pair_R = ~(reward_S[chosen] > reward_S[rejected])
    pairs = drawn.with_children(torch.stack([chosen, rejected], dim=1))
    ended_M = pairs.per_segment["finish_reason"][pairs.segment_M] == FinishReason.STOP
    last_M = pairs.targets_M == pairs.starts_S1[pairs.segment_M + 1] - 1
    pairs = pairs.with_(
        per_target={"is_format": ended_M & last_M},
        per_tree={"no_pair": no_pair_R.float().mean().expand(len(no_pair_R))},
    )
    return dropping(pairs, no_pair_R)
