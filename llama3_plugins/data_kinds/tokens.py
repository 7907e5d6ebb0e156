"""Tokens: rows of packed documents, as pretraining reads them from token shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama3.data_kinds import DataKind

if TYPE_CHECKING:
    from llama3.data_kinds import Batch


class Tokens(DataKind["Batch"]):
    """No user writes it: the stage `shard` does. [document] [document]: all roots; every token but the first of each is
    a target."""

    def collate(self, examples: Sequence[Batch]) -> Batch:
        """The documents of all rows, back to back."""
        from llama3.data_kinds import Batch

        return Batch.concat(examples)

    def toy(self, rng: np.random.Generator) -> Batch:
        from llama3.data_kinds import Batch
        from llama3.testing.toys import toy_ids

        return Batch.of_documents(toy_ids(rng, 12), (0, int(rng.integers(3, 9))))
