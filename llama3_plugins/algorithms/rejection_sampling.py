"""Rejection sampling while training: the best of K answers to each prompt is learnt (paper 4.2.2)."""

from __future__ import annotations

import torch

from llama3.algorithms import Algorithm, Batch, Plan, Scored, Services, Term
from llama3_plugins.algorithms.choices import pick
from llama3_plugins.algorithms.options import RejectionSamplingOptions


class RejectionSampling(Algorithm):
    """Best-of-K finetuning (Touvron et al. 2023, Llama 2, 3.2.3). Needs rollouts and a reward; learns from prompts.

        y* = argmax over K answers y ~ pi(y|x) of reward(x, y);     loss = mean over all tokens of -log pi(y*|x)

    with y* drawn anew from the current policy at every step. A prompt whose best reward lies below `threshold` teaches
    nothing: it is dropped and counted.
    """

    def __init__(self, options: RejectionSamplingOptions) -> None:
        self.options, self.plan = options, Plan(samples=options.samples)

    def prepare(self, batch: Batch, services: Services) -> Batch:
        best = batch.with_children(pick(batch, batch.per_segment["reward"])[:, None])
        if self.options.threshold is None:
            return best
        return best.drop(best.per_segment["reward"][best.child(0)] < self.options.threshold, "below_threshold")

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"nll": Term(-scored.logps_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {
            "best_reward": Term(batch.per_segment["reward"].sum(), per="tree"),
            "answer_tokens": Term(torch.tensor(float(batch.num_targets)), per="tree"),
        }
