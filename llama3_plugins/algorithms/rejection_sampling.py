"""Rejection sampling while training: the best of K answers to each prompt is learnt (paper 4.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.training.algorithm import Algorithm, Plan, Services, Term
from llama3_plugins.algorithms.choices import dropping, pick
from llama3_plugins.algorithms.options import RejectionSamplingOptions
from llama3_plugins.data_kinds.prompts import PromptExample, Prompts


class RejectionSampling(Algorithm):
    """Best-of-K finetuning (Touvron et al. 2023, Llama 2, 3.2.3). Needs rollouts and a reward; learns from prompts.

        y* = argmax over K answers y ~ pi(y|x) of reward(x, y);     loss = mean over all tokens of -log pi(y*|x)

    with y* drawn anew from the current policy at every step. A prompt whose best reward lies below `threshold`, or none
    of whose answers can be scored, teaches nothing: it is dropped and counted.

    Legend: R trees (prompts).
    """

    def __init__(self, options: RejectionSamplingOptions) -> None:
        self.options, self.plan = options, Plan(samples=options.samples)

    def collate(self, examples: Sequence[PromptExample]) -> Batch:
        return Prompts().collate(examples)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        drawn = services.reward.score(services.sampler.rollouts(batch, self.plan.samples))
        best = pick(drawn, drawn.per_segment["reward"])
        kept = drawn.with_children(best[:, None])
        if self.options.threshold is None:
            return kept
        return dropping(kept, kept.per_segment["reward"][kept.child(0)] < self.options.threshold)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"nll": Term(-scored.logps_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        return {
            "best_reward": batch.per_segment["reward"][batch.child(0)].mean(),
            "answer_tokens": batch.targets_per_segment_S.sum() / batch.num_trees,
        }
