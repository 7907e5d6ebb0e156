"""Filters that judge by a model: in which language a document is, and how good it is (paper 3.1.1).

The fast model is a fastText classifier. Where it is in doubt, an encoder may decide: its scores take the place of the
fast ones inside the band of doubt, and there alone, for it costs a thousand times as much. Without a model a filter
keeps every document, and the corpus says that it judged nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llama3.filters import DocumentBatch, Judgement, TextModel
from llama3_plugins.filters.encoder import Encoder
from llama3_plugins.filters.limits import of_kind

UNKNOWN = "und"
"""The language of documents whose source does not tell."""


class ModelOptions(BaseModel):
    """Where the model is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None,
        description="a fastText .bin or .ftz, or a folder of `llama3 data classify train`; null: nothing is judged",
    )


class LanguageOptions(ModelOptions):
    """Which languages are kept. Written for models such as lid.176.bin, whose labels are language tags."""

    keep: list[str] = Field(default_factory=list, description="labels that are kept; empty: all")
    min: float = Field(0.65, ge=0, le=1, description="probability of the likeliest label, at least")
    characters: int = Field(1000, ge=1, description="of a document are read")
    told: bool = Field(False, description="judge documents too whose source tells their language")


class QualityOptions(ModelOptions):
    """Which documents are good enough."""

    label: str = Field("yes", description="the label whose probability is the score")
    min: float = Field(0.5, ge=0, le=1, description="score from which a document is kept")
    characters: int = Field(10_000, ge=1, description="of a document are read")
    kinds: list[str] = Field(["prose"], description="kinds of documents that are judged")
    encoder: str | None = Field(
        None, description="folder of a sequence classifier that decides where the fast model is in doubt"
    )
    doubt: tuple[float, float] = Field((0.3, 0.7), description="scores between which the encoder decides")
    encoder_label: str | None = Field(None, description="the label of the encoder; default: `label`")
    encoder_tokens: int = Field(512, ge=8, description="tokens of a document that the encoder reads")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 <= self.doubt[0] <= self.doubt[1] <= 1:
            raise ValueError("doubt: two scores from 0 to 1 that do not fall")
        return self


class Language:
    """Keeps documents whose likeliest language is among the wanted ones, and likely enough. `label` is the place of
    that language among the model's, -1 of a document that the model was not asked about; `p` is its probability. They
    are measured as documents are read, so that duplicates can be looked for inside each language (`languages`)."""

    features: frozenset[str] = frozenset()
    measures = ("label", "p")

    def __init__(self, options: LanguageOptions) -> None:
        self.options = options
        self.model = TextModel(options.model, options.characters) if options.model else None
        self.has_model, self.stamp = self.model is not None, self.model.hash if self.model else ""
        if self.model:
            self.model.require(options.keep)

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        label_D, p_D = np.full(len(batch), -1.0), np.ones(len(batch))
        if self.model is not None:
            unknown_D = np.array([language == UNKNOWN for language in batch.column("language")], bool)
            asked_D = of_kind(batch, "prose") & (unknown_D | self.options.told)
            found_DL = self.model.probabilities(_chosen(batch, asked_D))
            label_D[asked_D], p_D[asked_D] = found_DL.argmax(1), found_DL.max(1)
        return {"label": label_D, "p": p_D}

    def languages(self, batch: DocumentBatch) -> Sequence[str]:
        """The likeliest one of documents whose source does not tell; the source's word stands for the others."""
        told = batch.column("language")
        if self.model is None:
            return told
        labels = batch.features["language.label"].astype(int).tolist()
        return [
            self.model.labels[label] if language == UNKNOWN and label >= 0 else language
            for language, label in zip(told, labels, strict=True)
        ]

    def judge(self, batch: DocumentBatch) -> Judgement:
        if self.model is None:
            return everything(batch)
        label_D, score_D = (batch.features[f"language.{name}"] for name in self.measures)
        keep_D, reason_D = np.ones(len(batch), bool), [""] * len(batch)
        for d in np.flatnonzero(label_D >= 0).tolist():
            label = self.model.labels[int(label_D[d])]
            wanted = not self.options.keep or label in self.options.keep
            keep_D[d] = wanted and score_D[d] >= self.options.min
            reason_D[d] = "" if keep_D[d] else "unsure" if wanted else f"language_{label}"
        return Judgement(score_D, keep_D, reason_D)


class Quality:
    """Keeps documents to which the model gives the wanted label with enough probability `p`, which is 1 of documents of
    other kinds."""

    features: frozenset[str] = frozenset()
    measures = ("p",)

    def __init__(self, options: QualityOptions) -> None:
        self.options = options
        self.model = TextModel(options.model, options.characters) if options.model else None
        self.has_model, self.stamp = self.model is not None, self.model.hash if self.model else ""
        self.encoder: Encoder | None = None
        if self.model:
            self.model.require([options.label])
            if options.encoder:
                label = options.encoder_label or options.label
                self.encoder = Encoder(options.encoder, label, options.encoder_tokens)
                self.stamp += self.encoder.hash

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        p_D = np.ones(len(batch))
        if self.model is not None:
            asked_D = of_kind(batch, *self.options.kinds)
            p_D[asked_D] = self._scores(_chosen(batch, asked_D))
        return {"p": p_D}

    def judge(self, batch: DocumentBatch) -> Judgement:
        if self.model is None:
            return everything(batch)
        score_D = batch.features["quality.p"]
        keep_D = score_D >= self.options.min
        return Judgement(score_D, keep_D, ["" if keep else "low_quality" for keep in keep_D.tolist()])

    def _scores(self, texts: list[str]) -> np.ndarray:
        """The fast model's, and the encoder's where the fast one's lie in the band of doubt."""
        assert self.model is not None
        score_D = self.model.of_label(texts, self.options.label)
        if self.encoder is not None:
            low, high = self.options.doubt
            doubt = np.flatnonzero((low <= score_D) & (score_D <= high))
            score_D[doubt] = self.encoder.probabilities([texts[d] for d in doubt.tolist()])
        return score_D


def _chosen(batch: DocumentBatch, chosen_D: np.ndarray) -> list[str]:
    """The texts of some documents."""
    return [text for text, chosen in zip(batch.texts, chosen_D, strict=True) if chosen]


def everything(batch: DocumentBatch) -> Judgement:
    """What is judged without a model."""
    return Judgement(np.ones(len(batch)), np.ones(len(batch), bool), [""] * len(batch))
