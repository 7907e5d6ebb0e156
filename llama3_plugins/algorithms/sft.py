"""Supervised finetuning: cross-entropy on the target tokens only (paper 4.1.3)."""

from __future__ import annotations

import torch

from llama3.algorithms import Algorithm, Batch, Scored, Term


class SFT(Algorithm):
    """Mean negative log-likelihood over all answer tokens of the step, end tokens included; prompts are masked."""

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"nll": Term(-scored.logps_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"answer_tokens": Term(torch.tensor(float(batch.num_targets)), per="tree")}
