"""Quality and repetition rules after Gopher (Rae et al. 2021, appendix A.1.1), and line-shape rules for code
(Li et al. 2023, StarCoder, section 3)."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from llama3.errors import did_you_mean
from llama3.filters import FEATURES, DocumentBatch, Judgement
from llama3_plugins.filters.limits import Bound, judged_by, of_kind

PROSE = {
    "words": Bound(min=50, max=100_000),
    "mean_word_length": Bound(min=3, max=10),
    "hashes_per_word": Bound(max=0.1),
    "ellipses_per_word": Bound(max=0.1),
    "bullet_line_fraction": Bound(max=0.9),
    "ellipsis_line_fraction": Bound(max=0.3),
    "alpha_token_fraction": Bound(min=0.8),
    "stop_words": Bound(min=2),
    "duplicate_line_fraction": Bound(max=0.3),
    "duplicate_line_char_fraction": Bound(max=0.2),
    "duplicate_paragraph_fraction": Bound(max=0.3),
    "duplicate_paragraph_char_fraction": Bound(max=0.2),
    "top_2gram_char_fraction": Bound(max=0.20),
    "top_3gram_char_fraction": Bound(max=0.18),
    "top_4gram_char_fraction": Bound(max=0.16),
    "duplicate_5gram_char_fraction": Bound(max=0.15),
    "duplicate_6gram_char_fraction": Bound(max=0.14),
    "duplicate_7gram_char_fraction": Bound(max=0.13),
    "duplicate_8gram_char_fraction": Bound(max=0.12),
    "duplicate_9gram_char_fraction": Bound(max=0.11),
    "duplicate_10gram_char_fraction": Bound(max=0.10),
}
CODE = {
    "words": Bound(min=10, max=500_000),
    "max_line_length": Bound(max=1000),
    "mean_line_length": Bound(max=100),
    "alphanumeric_fraction": Bound(min=0.25),
    "digit_fraction": Bound(max=0.3),
    "duplicate_10gram_char_fraction": Bound(max=0.6),
}
ENGLISH_ONLY = frozenset({"mean_word_length", "stop_words"})
"""Rules whose numbers come from English; they pass documents of any other known language."""


class GopherOptions(BaseModel):
    """Limits by statistic; what is written here replaces or adds to the default limit of that statistic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prose: dict[str, Bound] = Field(default_factory=dict, description="e.g. {words: {min: 20}}")
    code: dict[str, Bound] = Field(default_factory=dict, description="e.g. {max_line_length: {max: 2000}}")

    @field_validator("prose", "code")
    @classmethod
    def _known(cls, limits: dict[str, Bound]) -> dict[str, Bound]:
        for name in limits:
            if name not in FEATURES:
                raise ValueError(f"no statistic {name!r}; {did_you_mean(name, FEATURES) or ', '.join(FEATURES)}")
        return limits


class Gopher:
    """One table of limits for prose and one for code; made text passes."""

    def __init__(self, options: GopherOptions) -> None:
        self.limits = {"prose": PROSE | options.prose, "code": CODE | options.code}
        self.features = frozenset(name for limits in self.limits.values() for name in limits)

    def judge(self, batch: DocumentBatch) -> Judgement:
        english_D = np.isin(np.array(batch.column("language"), dtype=object), ["en", "und"])
        rows = (
            (name, batch.features[name], bound, of_kind(batch, kind) & (english_D | (name not in ENGLISH_ONLY)))
            for kind, limits in self.limits.items()
            for name, bound in limits.items()
        )
        return judged_by(rows, len(batch))
