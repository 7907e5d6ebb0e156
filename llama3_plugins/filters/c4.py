"""The rules of C4 (Raffel et al. 2020, section 2.2), for prose: which lines stay, and what documents must have left.

Empty lines between paragraphs stay where they are. Letters: L lines of a batch, D its documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3.filters import DocumentBatch, Edits, Judgement, LineFacts, citation_spans
from llama3_plugins.filters.limits import Bound, judge_measures, of_kind


class C4Lines(BaseModel):
    """Which lines go. Other values change what is measured, so they need the text again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unfinished: bool = Field(True, description="lines that do not end with . ! ? \" or ', and those that end with ...")
    min_words: int = Field(3, ge=0, description="lines with fewer words")
    max_word_length: int = Field(1000, ge=1, description="lines with a longer word")
    javascript: bool = Field(True, description="lines that speak of JavaScript")
    policy: bool = Field(True, description="lines that speak of terms of use, privacy or cookies")
    citations: bool = Field(True, description="not the line, but [12], [edit] and [citation needed] in it")


class C4Options(BaseModel):
    """Limits of what is left of a document, and which of its lines are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sentences: Bound = Field(Bound(min=5), description="sentences in lines that stay")
    lorem_ipsum: Bound = Field(Bound(max=0), description="lines with this text of printers")
    curly_brackets: Bound = Field(Bound(max=0), description="lines with a curly bracket: code")
    lines: C4Lines = C4Lines()


class C4:
    """Measures lines, judges documents, and takes out of those that stay what is no sentence."""

    features: frozenset[str] = frozenset()
    measures = ("sentences", "lorem_ipsum", "curly_brackets")

    def __init__(self, options: C4Options) -> None:
        self.limits = {name: getattr(options, name) for name in self.measures}
        self.lines = options.lines

    def measure(self, batch: DocumentBatch) -> Mapping[str, np.ndarray]:
        facts = LineFacts.of(batch)
        stay_L = np.ones(len(facts.document), bool)
        seen: dict[str, np.ndarray] = {}
        for kind, goes_L in self._going(facts):
            if kind == "javascript":  # such lines may be code; those before them are only short or unfinished
                seen["lorem_ipsum"] = stay_L & facts.lorem_ipsum
                seen["curly_brackets"] = stay_L & ~goes_L & facts.curly_bracket
            stay_L = stay_L & ~goes_L
        seen["sentences"] = np.where(stay_L, facts.sentences, 0)
        return {name: np.bincount(facts.document, seen[name], len(batch)) for name in self.measures}

    def judge(self, batch: DocumentBatch) -> Judgement:
        return judge_measures("c4", self.limits, batch, of_kind(batch, "prose"))

    def edits(self, batch: DocumentBatch) -> Edits:
        facts = LineFacts.of(batch)
        prose_D = of_kind(batch, "prose")
        found: list[Edits] = []
        left_L = prose_D[facts.document]
        for kind, goes_L in self._going(facts):
            go = left_L & goes_L
            count = int(go.sum())
            found.append(Edits(facts.document[go], facts.start[go], facts.end[go], [kind] * count, [""] * count))
            left_L &= ~goes_L
        if self.lines.citations:
            document, start, end = citation_spans(batch)
            prose = prose_D[document]
            count = int(prose.sum())
            found.append(Edits(document[prose], start[prose], end[prose], ["citation"] * count, [""] * count))
        return Edits.all(found)

    def _going(self, facts: LineFacts) -> Iterator[tuple[str, np.ndarray]]:
        """(why, bool [L]) in the order in which the rules are asked."""
        no_L = np.zeros(len(facts.document), bool)
        yield "long_word", facts.longest_word > self.lines.max_word_length
        yield "unfinished", (~facts.terminal | facts.ellipsis) if self.lines.unfinished else no_L
        yield "few_words", facts.words < self.lines.min_words
        yield "javascript", facts.javascript if self.lines.javascript else no_L
        yield "policy", facts.policy if self.lines.policy else no_L
