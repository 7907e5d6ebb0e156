"""Lines that repeat themselves, as logs and error messages do: too long and too different for the count of equal lines,
found by the share of their duplicated n-grams (paper 3.1.1). For prose.

Letters: L lines of a batch, D its documents.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Edits, Judgement, LineFacts, line_repetition
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind


class RepeatedLinesOptions(BaseModel):
    """Which lines go, and how much of a document they may be. Other values than `fraction` need the text again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ngram: int = Field(5, ge=1, description="words of the n-grams of a line")
    share: float = Field(
        0.3, ge=0, le=1, description="share of a line's characters in repeated n-grams, above which it goes"
    )
    min_words: int = Field(20, ge=1, description="shorter lines stay")
    fraction: Bound = Field(Bound(max=0.5), description="share of a document's bytes in lines that go")


class RepeatedLines:
    """Takes out lines, and documents that are mostly such lines."""

    features: frozenset[str] = frozenset()
    measures = ("fraction",)

    def __init__(self, options: RepeatedLinesOptions) -> None:
        self.options = options

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        facts, goes_L = self._going(batch)
        going_D = np.bincount(facts.document[goes_L], (facts.end - facts.start)[goes_L], len(batch))
        return {"fraction": going_D / np.maximum(batch.bytes_D, 1)}

    def judge(self, batch: DocumentBatch) -> Judgement:
        return judge_measures("repeated_lines", {"fraction": self.options.fraction}, batch, of_kind(batch, "prose"))

    def edits(self, batch: DocumentBatch) -> Edits:
        facts, goes_L = self._going(batch)
        go = np.flatnonzero(goes_L & of_kind(batch, "prose")[facts.document])
        kinds = ["repetitive"] * len(go)
        return Edits(facts.document[go], facts.start[go], facts.end[go], kinds, [""] * len(go))

    def _going(self, batch: DocumentBatch) -> tuple[LineFacts, np.ndarray]:
        facts, options = LineFacts.of(batch), self.options
        is_long_L = facts.words >= options.min_words
        return facts, is_long_L & (line_repetition(batch, options.ngram) > options.share)
