"""Next-token prediction over packed documents: pretraining (paper 3.4)."""

from __future__ import annotations

from llama3.algorithms import Algorithm, Batch, Scored, Term


class NextToken(Algorithm):
    """Mean cross-entropy over every token but the first of each document. An example is a `Batch` of documents."""

    def loss(self, scored: Scored, batch: Batch) -> dict[str, Term]:
        return {"next_token": Term(-scored.logps_M.sum(), per="target")}
