"""Supervised finetuning: cross-entropy on the target tokens only (paper 4.1.3)."""

from __future__ import annotations

import torch

from llama3.algorithms import Algorithm, Batch, Scored, Term
from llama3_plugins.algorithms.options import SFTOptions


class SFT(Algorithm):
    """Mean negative log-likelihood over all answer tokens of the step, end tokens included; prompts are masked.

        nll    -log pi(t)
        dft    -p log pi(t),  p = pi(t) without gradient        Wu et al. 2025 (arXiv 2508.05629), equation 9

    `dft` takes out that a token counts by the inverse of its probability, so that rare tokens move the model less.
    """

    def __init__(self, options: SFTOptions) -> None:
        self.options = options

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        loss_M = -scored.logps_M
        if self.options.loss == "dft":
            loss_M = loss_M * scored.logps_M.detach().exp()
        return {self.options.loss: Term(loss_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"answer_tokens": Term(torch.tensor(float(batch.num_targets)), per="tree")}
