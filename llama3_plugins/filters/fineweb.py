"""The rules that FineWeb added to Gopher's and C4's (Penedo et al. 2024, section 3.6), for prose."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Judgement
from llama3_plugins.filters.limits import Bound, judged_by, of_kind


class FineWebOptions(BaseModel):
    """Limits of shares: of lines that are not blank, or of characters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    terminal_line_fraction: Bound = Field(Bound(min=0.12), description="lines that end as a sentence does")
    short_line_fraction: Bound = Field(Bound(max=0.67), description="lines of up to 30 characters")
    repeated_line_char_fraction: Bound = Field(Bound(max=0.01), description="characters in lines seen before")
    newlines_per_word: Bound = Field(Bound(max=0.3), description="line breaks for each word: lists have many")


class FineWeb:
    """One table of limits for prose; code and made text pass."""

    def __init__(self, options: FineWebOptions) -> None:
        self.limits: dict[str, Bound] = dict(options)
        self.features = frozenset(self.limits)

    def judge(self, batch: DocumentBatch) -> Judgement:
        prose_D = of_kind(batch, "prose")
        rows = ((name, batch.features[name], bound, prose_D) for name, bound in self.limits.items())
        return judged_by(rows, len(batch))
