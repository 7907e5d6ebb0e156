"""Which dialogs of post-training are learnt: who labels them, what is a near duplicate, which tones are too many."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from llama3.config.section import Section
from llama3.config.slot_types import RewardSlot

TOPICS: dict[str, list[str]] = {
    "mathematical reasoning": ["arithmetic", "algebra", "geometry and trigonometry", "probability", "logic"],
    "coding": ["writing code", "debugging", "explaining code", "data and queries"],
    "knowledge": ["science", "history and geography", "society and law", "health", "arts and entertainment"],
    "writing": ["creative writing", "editing", "summarising", "translating"],
    "conversation": ["advice", "small talk", "role play"],
    "other": ["other"],
}
"""Two levels of topics; the paper names no more of its own than the first two of these words (4.2.3)."""

Sign = Literal["apology", "as_an_ai", "opening", "preaching", "emoji", "exclamation"]
"""What may be too frequent in answers (llama3.quality.cleaning says what shows each)."""
CLEANING: dict[Sign, float] = {
    "apology": 0.05,
    "as_an_ai": 0.01,
    "opening": 0.1,
    "preaching": 0.1,
    "emoji": 0.05,
    "exclamation": 0.05,
}
Share = Annotated[float, Field(ge=0, le=1)]
Times = Annotated[float, Field(ge=0, le=100)]


class LabellerSection(Section):
    """A model that labels dialogs: their topic, the intentions of who asks, how hard they are, how good the answer."""

    model: str = Field(
        description="a model on this machine, or the address of a server, such as http://127.0.0.1:8000/v1"
    )
    served: str | None = Field(None, description="name of the model at the server (default: the first that it lists)")
    parallel: int = Field(8, ge=1, le=1024, description="requests at a time that a server gets")


class SemanticDedupSection(Section):
    """Semantic deduplication of whole dialogs, inside clusters of their embeddings."""

    threshold: float = Field(
        0.95, gt=0, le=1, description="cosine similarity to a dialog that is kept, from which on another one goes"
    )
    encoder: str | None = Field(
        None,
        description="folder of a sentence encoder (config.json, tokenizer, model.safetensors); "
        "default: the mean final states of the model that is trained",
    )
    clusters: int | None = Field(
        None, ge=1, le=1 << 20, description="clusters of k-means; default: one for each 131072 dialogs"
    )
    sources: list[str] = Field(
        default_factory=list, description="sources in which near duplicates are looked for; default: all"
    )


class QualitySection(Section):
    """Data quality control (paper 4.2.3): which of the dialogs of a round, or of your own, are finetuned on."""

    labeller: LabellerSection | None = Field(
        None, description="a model that labels: {model: PATH or URL}; null: no label is asked for"
    )
    topics: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=lambda: TOPICS, min_length=1, description="topics in two levels that the labeller chooses from"
    )
    rewards: list[RewardSlot] = Field(
        default_factory=list, description="reward models; an answer in the top share of their scores is of high quality"
    )
    top_share: float = Field(0.25, gt=0, le=1, description="share of the scores that counts as high: the top quartile")
    dedup: SemanticDedupSection | None = Field(
        SemanticDedupSection(), description="near duplicates that are removed; null: none"
    )
    cleaning: dict[Sign, Share] = Field(
        default_factory=lambda: CLEANING,
        description="largest share of dialogs whose answers show a sign; what is beyond it goes, the worst first",
    )
    epochs: dict[str, Times] = Field(
        default_factory=dict,
        description="how often each source is learnt in one pass: {demonstration: 2, rehearsal: 0.5}; default: once",
    )

    @field_validator("topics")
    @classmethod
    def _each_once(cls, topics: dict[str, list[str]]) -> dict[str, list[str]]:
        fine = [name.casefold() for names in topics.values() for name in names]
        if len({*fine}) < len(fine):
            raise ValueError("a topic of the second level stands there twice")
        return topics
