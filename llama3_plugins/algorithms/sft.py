"""Supervised finetuning: cross-entropy on the target tokens only (paper 4.1.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.posttraining.examples import DialogExample
from llama3.training.algorithm import Algorithm, Term
from llama3_plugins.data_kinds.dialogs import Dialogs


class SFT(Algorithm):
    """Mean negative log-likelihood over all answer tokens of the step, end tokens included; prompts are masked."""

    def collate(self, examples: Sequence[DialogExample]) -> Batch:
        return Dialogs().collate(examples)

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"nll": Term(-scored.logps_M.sum(), per="target")}

    def metrics(self, scored: Scored, batch: Batch) -> dict[str, Tensor]:
        return {"answer_tokens": batch.targets_per_segment_S.sum() / batch.num_trees}
