"""What filters think of a batch: scores, judgements and edits, together.

Letters: D documents of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llama3.data.documents import DocumentBatch, Edits, Filter, Judgement
from llama3.data.judging import asked_of, editing, judged, measured, recorded


@dataclass(frozen=True)
class Opinion:
    """Of D documents."""

    columns: dict[str, np.ndarray]
    """What is recorded of them: the features that filters read, and what they measure; float64 [D]."""
    judgements: dict[str, Judgement]
    """By filter, in their order."""
    edits: dict[str, Edits]
    """Of the documents that all filters keep, by filter."""
    keep_D: np.ndarray
    """bool: every filter keeps it."""


def opinion(filters: Mapping[str, Filter], batch: DocumentBatch) -> Opinion:
    """Every filter scores every document."""
    batch = measured(filters, batch)
    columns = {name: batch.features[name] for name in recorded(filters)}
    judgements = {name: judged(name, filter, batch) for name, filter in filters.items()}
    keep_D = np.ones(len(batch), bool)
    for judgement in judgements.values():
        keep_D &= judgement.keep_D
    editors = editing(filters)
    kept = batch.take(keep_D) if editors else batch
    edits: dict[str, Edits] = {name: asked_of(name, filter, filter.edits, kept) for name, filter in editors.items()}
    return Opinion(columns, judgements, edits, keep_D)
