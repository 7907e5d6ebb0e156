"""Dirty words, counted (after Raffel et al. 2020; paper 3.1.1: pages that domain lists miss): by lists that the user
gives, a file per language. One such word says little; many, or many different ones, say what a page is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Judgement, Phrases, read_lists
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind


class DirtyWordsOptions(BaseModel):
    """Lists of words, and how many a text may have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lists: dict[str, str] = Field(
        min_length=1, description="file by language; und: for documents whose language is not known or has no list"
    )
    count: Bound = Field(Bound(), description="words and phrases of the list")
    different: Bound = Field(Bound(max=3), description="different ones")
    per_word: Bound = Field(Bound(max=0.01), description="those of the list for each word of the text")


class DirtyWords:
    """Counts words of lists in prose, and judges by the counts."""

    features = frozenset({"words"})
    measures = ("count", "different", "per_word")

    def __init__(self, options: DirtyWordsOptions) -> None:
        lists, self.stamp = read_lists(options.lists)
        self.phrases = {language: Phrases(entries) for language, entries in lists.items()}
        self.limits = {name: getattr(options, name) for name in self.measures}

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        count_D, different_D = np.zeros(len(batch)), np.zeros(len(batch))
        known = [language if language in self.phrases else "und" for language in batch.column("language")]
        language_D = np.array(known, dtype=object)
        for language, phrases in self.phrases.items():
            here_D = language_D == language
            if here_D.any():
                count_D[here_D], different_D[here_D] = phrases.count(batch.take(here_D))
        per_word_D = count_D / np.maximum(batch.features["words"], 1)
        return {"count": count_D, "different": different_D, "per_word": per_word_D}

    def judge(self, batch: DocumentBatch) -> Judgement:
        return judge_measures("dirty_words", self.limits, batch, of_kind(batch, "prose"))
