"""What filters think of a batch: scores, judgements and edits, together.

Letters: D documents of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from llama3.data.documents import DocumentBatch, Edits, Filter, Judgement
from llama3.data.judging import editing, edits_of, judged, measured, recorded


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
    outside: tuple[str, ...] = ()
    """Why, of each document that was asked about and left out of all this, in a row of "" for the others; empty where
    none was (llama3.data.watching)."""

    @classmethod
    def joined(cls, one: Opinion, other: Opinion) -> Opinion:
        """Of the documents of both, one after the other."""
        pairs = {name: (judgement, other.judgements[name]) for name, judgement in one.judgements.items()}
        judgements = {
            name: Judgement(
                np.concatenate([a.score_D, b.score_D]), np.concatenate([a.keep_D, b.keep_D]), [*a.reason_D, *b.reason_D]
            )
            for name, (a, b) in pairs.items()
        }
        kept = int(one.keep_D.sum())
        moved = {name: replace(edits, document_E=edits.document_E + kept) for name, edits in other.edits.items()}
        outside = ()
        if one.outside or other.outside:
            outside = (*(one.outside or [""] * len(one.keep_D)), *(other.outside or [""] * len(other.keep_D)))
        return cls(
            {name: np.concatenate([values, other.columns[name]]) for name, values in one.columns.items()},
            judgements,
            {name: Edits.all([edits, moved[name]]) for name, edits in one.edits.items()},
            np.concatenate([one.keep_D, other.keep_D]),
            outside,
        )


def opinion(filters: Mapping[str, Filter], batch: DocumentBatch, asked: Callable[[str], object] = str) -> Opinion:
    """Every filter scores every document. `asked` hears the name of each filter before that is asked."""
    batch = measured(filters, batch, asked)
    columns = {name: batch.features[name] for name in recorded(filters)}
    judgements = {}
    for name, filter in filters.items():
        asked(name)
        judgements[name] = judged(name, filter, batch)
    keep_D = np.ones(len(batch), bool)
    for judgement in judgements.values():
        keep_D &= judgement.keep_D
    editors = editing(filters)
    kept = batch.take(keep_D) if editors else batch
    edits: dict[str, Edits] = {}
    for name, editor in editors.items():
        asked(name)
        edits[name] = edits_of(name, editor, kept)
    return Opinion(columns, judgements, edits, keep_D)
