"""Next-token prediction over packed documents: pretraining (paper 3.4)."""

from __future__ import annotations

from llama3.model.batch import Batch
from llama3.model.score import Scored
from llama3.training.algorithm import Algorithm, Term


class NextToken(Algorithm):
    """Mean cross-entropy over every token but the first of each document. An example is a `Batch` of documents."""

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"next_token": Term(-scored.logps_M.sum(), per="target")}
