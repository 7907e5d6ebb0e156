"""Made texts that say again what they have said, word for word and far later: practice in using a long context.

A document is a passage, told several times: lines of words, and among them facts ("The magic number of Oslo is 4711.").
Whoever predicts it the second time must find the first. The paper (4.3.4) makes long-context data with a model; this
needs none, and teaches nothing but to look back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from llama3.sources import Collector, DocumentBatch, ShardRef
from llama3_plugins.facts import KEYS, SENTENCE, Sentence, drawn_value, told

_WORDS = (
    "river", "stone", "bridge", "town", "winter", "light", "road", "field", "falls", "walks", "under", "over", "with",
    "and", "the", "a",
)  # fmt: skip


class RecallOptions(BaseModel):
    """What the documents are like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int = Field(1000, ge=1, description="how many")
    lines: int = Field(100, ge=1, description="lines of the longest passages; all lengths are equally frequent")
    times: int = Field(3, ge=2, description="how often a passage is told")
    facts: float = Field(0.2, ge=0, le=1, description="share of lines that are facts")
    words: int = Field(8, ge=1, description="words of the other lines")
    digits: int = Field(5, ge=1, le=18, description="of the number of a fact")
    sentence: Sentence = Field(SENTENCE, description="how a fact is told, with {key} and {value}")
    seed: int = Field(0, ge=0, description="other documents for each")
    source: str = Field("recall", min_length=1, description="label of the documents")


class RecallSource:
    """Documents from a seed."""

    def __init__(self, options: RecallOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        return [ShardRef(self.options.source, "made", stamp=self.options.model_dump_json())]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        collector = Collector(shard.source, "en", "made")
        for number in range(self.options.documents):
            yield from collector.add(self.document(number), f"{shard.source}:{self.options.seed}:{number}")
        yield from collector.rest()

    def document(self, number: int) -> str:
        """The text of a document."""
        rng = random.Random(f"{self.options.seed} {number}")
        passage = [self._line(rng) for _ in range(rng.randint(1, self.options.lines))]
        return "\n".join(passage * self.options.times) + "\n"

    def _line(self, rng: random.Random) -> str:
        options = self.options
        if rng.random() >= options.facts:
            return " ".join(rng.choices(_WORDS, k=options.words))
        return told(options.sentence, rng.choice(KEYS), drawn_value(rng, options.digits))
