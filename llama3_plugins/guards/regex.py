"""Your own patterns as a guard. They are matched in a process of their own: a pattern that backtracks without end costs
the time that its text may take, and nobody else anything (llama3_plugins.guards.pattern_process)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llama3.guards import GuardInput, Verdict, normalise
from llama3_plugins.guards.marks import Mark, verdict_of
from llama3_plugins.guards.own_process import SECONDS, OwnProcess

_SCRIPT = Path(__file__).with_name("pattern_process.py")


class GuardPattern(BaseModel):
    """A pattern and what is done where it matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    category: str = Field(min_length=1, description="what a match is called in verdicts; thresholds go by it")
    pattern: str = Field(min_length=1, description="a regular expression of Python's re")
    action: Literal["flag", "redact", "review", "block"] = Field("block", description="what is done with a match")
    ignore_case: bool = Field(False, description="whether large and small letters are alike")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"the pattern cannot be compiled: {error}") from None
        return pattern


class RegexOptions(BaseModel):
    """Options of the guard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: tuple[GuardPattern, ...] = Field(description="what is looked for: one pattern or more")
    undisguised: bool = Field(
        False,
        description="match also on the text without invisible and look-alike characters and s p a c e d letters",
    )

    @field_validator("patterns")
    @classmethod
    def _is_there(cls, patterns: tuple[GuardPattern, ...]) -> tuple[GuardPattern, ...]:
        # Not min_length: that would be a second problem where all patterns are bad.
        if not patterns:
            raise ValueError("no pattern is given")
        return patterns


class RegexGuard:
    """Matches patterns; spans are those of the text as written."""

    def __init__(self, options: RegexOptions) -> None:
        self.options = options
        self._categories = sorted({pattern.category for pattern in options.patterns})
        patterns = [(pattern.pattern, pattern.ignore_case) for pattern in options.patterns]
        self._process = OwnProcess(_SCRIPT, patterns, "the patterns")

    def open(self) -> None:
        """Start the process. Raises TimeoutError where the patterns are not compiled in time."""
        self._process.start(time.monotonic() + SECONDS)

    def close(self) -> None:
        """End the process."""
        self._process.end()

    def check(self, x: GuardInput) -> Verdict:
        """Raises TimeoutError where matching takes longer than to the deadline: the text is blocked then."""
        return verdict_of(x, self._marks(x), self._categories, version="1")

    def _marks(self, x: GuardInput) -> Iterator[Mark]:
        texts = [x.text]
        folded = normalise(x.text) if self.options.undisguised else None
        if folded is not None and folded.text != x.text:
            texts.append(folded.text)
        deadline = time.monotonic() + SECONDS if x.deadline is None else x.deadline
        for number, which, start, end in self._process.ask(texts, deadline):
            if which and folded is not None:
                start, end = folded.original_span(start, end)
            pattern = self.options.patterns[number]
            yield Mark(start, end, pattern.category, pattern.action)
