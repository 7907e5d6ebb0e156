"""Made texts that say again, far later, what they have said: practice in using a long context.

A document is lines of filler, among them facts ("The magic number of Oslo is 4711."), each told several times at random
places. Whoever predicts the number the second time must find the first. Paper 4.3.4 makes its long-context data with a
model; this needs none, and measures nothing but recall.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from llama3.sources import Collector, DocumentBatch, ShardRef
from llama3_plugins.facts import KEYS, SENTENCE, Sentence, drawn_value, told

LABEL = "recall"
_WORDS = (
    "river", "stone", "bridge", "town", "winter", "light", "road", "field", "falls", "walks", "under", "over", "with",
    "and", "the", "a",
)  # fmt: skip


class RecallOptions(BaseModel):
    """What the documents are like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(1000, ge=1, description="how many")
    lines: int = Field(200, ge=2, description="lines of each")
    facts: int = Field(10, ge=1, le=len(KEYS), description="facts of each")
    share: float = Field(0.2, gt=0, le=1, description="of lines that tell a fact, for the first time or again")
    words: int = Field(8, ge=1, description="words of the other lines")
    digits: int = Field(4, ge=1, le=18, description="of the number of a fact")
    sentence: Sentence = Field(SENTENCE, description="how a fact is told, with {key} and {value}")
    seed: int = Field(0, ge=0, description="other documents for each")


class RecallSource:
    """Documents from a seed, labelled "recall"."""

    def __init__(self, options: RecallOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        return [ShardRef(LABEL, "made", stamp=self.options.model_dump_json())]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        collector = Collector(LABEL, "en")
        for number in range(self.options.documents):
            yield from collector.add(self.document(number), f"recall:{self.options.seed}:{number}")
        yield from collector.rest()

    def document(self, number: int) -> str:
        """The text of a document."""
        options, rng = self.options, random.Random(f"{self.options.seed} {number}")
        facts = [
            told(options.sentence, key, drawn_value(rng, options.digits)) for key in rng.sample(KEYS, options.facts)
        ]
        lines = [
            rng.choice(facts) if rng.random() < options.share else " ".join(rng.choices(_WORDS, k=options.words))
            for _ in range(options.lines)
        ]
        return "\n".join(lines) + "\n"
