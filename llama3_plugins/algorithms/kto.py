"""Kahneman-Tversky optimization: answers that are good or bad by themselves, without pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from llama3.algorithms import Algorithm, Batch, Scored, Segment, Services, Term, Tree
from llama3_plugins.algorithms.options import KTOOptions


class KTO(Algorithm):
    """Ethayarajh et al. 2024, equations 7 and 8. Needs a reference; learns from labels.

        good answers:  desirable_weight   * (1 - sigmoid(beta * (log pi/ref - KL)))
        bad answers:   undesirable_weight * (1 - sigmoid(beta * (KL - log pi/ref)))

    KL is how far the policy has gone from the reference, at least 0: the mean log-ratio of mismatched answers, each
    prompt with the answer of the one before it in the step, without gradient. A process that holds a single example has
    no mismatch to add.

    Legend: M targets, R trees (answers).
    """

    def __init__(self, options: KTOOptions) -> None:
        self.options = options

    def prepare(self, batch: Batch, services: Services) -> Batch:
        mismatched = shifted_answers(batch, getattr(services, "context", None))
        ratio_M = services.policy.logps(mismatched) - services.reference.logps(mismatched)
        counted = float(batch.num_trees if batch.num_trees > 1 else 0)
        total = ratio_M.sum() if counted else ratio_M.new_zeros(())
        ratios, count = services.stats.sum(torch.stack([total, total.new_tensor(counted)]))
        kl = (ratios / count.clamp(min=1)).clamp(min=0)
        return batch.with_(
            per_target={"ref_logps": services.reference.logps(batch)},
            per_tree={"kl": kl.expand(batch.num_trees)},
        )

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        is_good_R = batch.per_tree["desirable"] > 0
        weight_R = torch.where(is_good_R, self.options.desirable_weight, self.options.undesirable_weight)
        loss_R = weight_R * (1 - torch.sigmoid(self.options.beta * self._gain(scored, batch)))
        return {"kto": Term(loss_R.sum(), per="tree")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        """`rewards/margins`: how far answers lie on the right side of the KL; `accuracies`: how many do."""
        gain_R = self._gain(scored, batch)
        return {
            "kl": Term(batch.per_tree["kl"].sum(), per="tree"),
            "rewards/margins": Term(gain_R.sum(), per="tree", weight=self.options.beta),
            "rewards/accuracies": Term((gain_R > 0).float().sum(), per="tree"),
        }

    def _gain(self, scored: Scored, batch: Batch) -> Tensor:
        """The log-ratio beyond the KL for good answers, below it for bad ones: positive is right."""
        ratio_S = batch.sum_by_segment(scored.logps_M - batch.per_target["ref_logps"])
        beyond_R = ratio_S[batch.child(0)] - batch.per_tree["kl"]
        return torch.where(batch.per_tree["desirable"] > 0, beyond_R, -beyond_R)


def shifted_answers(batch: Batch, context: int | None = None) -> Batch:
    """Each prompt with the answer of the tree before it, the first with the last's; of one that is longer than the
    model's context leaves room for, its beginning."""
    segments = batch.tokens_T.cpu().split(batch.lengths_S.tolist())
    prompts, answers = batch.roots_R.tolist(), batch.child(0).roll(1).tolist()
    trees = [
        Tree(
            [
                Segment(segments[prompt]),
                Segment(_cut(segments[answer], segments[prompt], context), parent=0, is_target=True),
            ]
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return Batch.of_trees(trees).to(batch.tokens_T.device)


def _cut(answer: Tensor, prompt: Tensor, context: int | None) -> Tensor:
    """The answer, or what of it fits after the prompt. A prompt always leaves room for a token: its own answer fits."""
    return answer if context is None else answer[: max(1, context - len(prompt))]
