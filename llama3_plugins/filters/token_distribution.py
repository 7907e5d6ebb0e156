"""Texts whose words are not those of the corpus (paper 3.1.1): documents with a large Kullback-Leibler divergence of
their word distribution from that of all documents of their kind and language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Judgement, WordDistribution
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind


class TokenDistributionOptions(BaseModel):
    """How far, against what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    divergence: Bound = Field(Bound(max=8.0), description="bits per word")
    bits: int = Field(20, ge=8, le=28, description="words fall into 2^bits buckets of 8 bytes per kind and language")
    least_words: int = Field(
        1_000_000, ge=1, description="words of a kind and language below which it is no measure and judges nothing"
    )


class TokenDistribution:
    """Two passes: the words of all documents, then every document against them."""

    features: frozenset[str] = frozenset()
    measures = ("divergence",)

    def __init__(self, options: TokenDistributionOptions) -> None:
        self.options = options
        self.seen: dict[tuple[str, str], WordDistribution] = {}

    def survey(self, batch: DocumentBatch) -> None:
        for key, here_D in _groups(batch):
            if key not in self.seen:
                self.seen[key] = WordDistribution(self.options.bits)
            self.seen[key].add(batch.take(here_D))

    def surveyed(self) -> Mapping[str, np.ndarray]:
        """Of every kind and language the buckets in which there are words, and how many: few, beside 2^bits."""
        found = {}
        for (kind, language), seen in self.seen.items():
            counts = seen.counts()
            buckets = np.flatnonzero(counts)
            found[f"{kind} {language}"] = np.stack([buckets.astype(np.uint64), counts[buckets]])
        return found

    def join(self, surveyed: Mapping[str, np.ndarray]) -> None:
        for name, (buckets, few) in surveyed.items():
            kind, _, language = name.partition(" ")
            counts = np.zeros(1 << self.options.bits, np.uint64)
            counts[buckets.astype(np.int64)] = few
            self.seen.setdefault((kind, language), WordDistribution(self.options.bits)).add_counts(counts)

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        """0 where too few words are known to compare with."""
        divergence_D = np.zeros(len(batch))
        for key, here_D in _groups(batch):
            seen = self.seen.get(key)
            if seen is not None and seen.words >= self.options.least_words:
                divergence_D[here_D] = seen.divergence(batch.take(here_D))
        return {"divergence": divergence_D}

    def judge(self, batch: DocumentBatch) -> Judgement:
        limits = {"divergence": self.options.divergence}
        return judge_measures("token_distribution", limits, batch, of_kind(batch, "prose", "code"))


def _groups(batch: DocumentBatch) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """((kind, language), which documents) of prose and code."""
    keys = list(zip(batch.column("kind"), batch.column("language"), strict=True))
    for kind, language in sorted(set(keys)):
        if kind != "made":
            yield (kind, language), np.array([key == (kind, language) for key in keys], bool)
