"""A prompt-injection and jailbreak guard that needs no model: weighted rules for what is said as an order.

It judges phrases, not words: an order to drop the rules counts where a clause begins with it and where it is about the
model's own rules, not where it is asked about, told, quoted or about something else (llama3_plugins.guards.phrases has
the tests, injection_rules the rules). Scores are combined as independent evidence: p = 1 - prod(1 - weight). It knows
English and light disguises, and whoever reads its rules can get around them; what it catches and what it blocks wrongly
stands in SECURITY.md. A guard with a model belongs beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from llama3.guards import Action, GuardInput, Normalised, Span, Verdict, normalise
from llama3_plugins.guards.injection_rules import MARKER, MARKER_WEIGHT, ROLE, ROLE_WEIGHT, RULES
from llama3_plugins.guards.phrases import is_elsewhere, is_forged, is_mentioned, is_order, words_of


class PromptInjectionOptions(BaseModel):
    """Options of the guard."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flag: float = Field(0.5, ge=0, le=1, description="score at which the text is flagged")
    block: float = Field(0.75, ge=0, le=1, description="score at which the text is blocked")


class PromptInjectionGuard:
    """Scores `injection` (orders that fight the system's) and `jailbreak` (orders to drop the rules)."""

    def __init__(self, options: PromptInjectionOptions) -> None:
        self.options = options

    async def open(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to release."""

    async def check(self, x: GuardInput) -> Verdict:
        folded = normalise(x.text)
        missed = {"injection": 1.0, "jailbreak": 1.0}
        spans: list[Span] = []
        for weight, span in (*_said(x.text, folded), *_forged(folded)):
            missed[span.category] *= 1 - weight
            spans.append(span)
        p = 1 - math.prod(missed.values())
        action: Action = "block" if p >= self.options.block else "flag" if p >= self.options.flag else "allow"
        found = ", ".join(sorted({span.category for span in spans}))
        return Verdict(
            action=action,
            p=p,
            categories={category: 1 - rest for category, rest in missed.items()},
            spans=tuple(spans),
            reason=f"looks like {found} (p = {p:.2f})" if found else "",
            version="2",
        )


def _said(text: str, folded: Normalised) -> Iterator[tuple[float, Span]]:
    """What the rules find that is said to the model, with its weight."""
    words = words_of(folded)
    for rule in RULES:
        for match in rule.pattern.finditer(words.text):
            start, end = match.span()
            span = words.original_span(start, end)
            told = (rule.order and not is_order(words.text, start)) or (rule.own and is_elsewhere(words.text, end))
            if not told and not is_mentioned(words.text, end, text, span):
                yield rule.weight, Span(start=span[0], end=span[1], category=rule.category)


def _forged(folded: Normalised) -> Iterator[tuple[float, Span]]:
    """Markers and lines that end the message and begin another one's."""
    for match in MARKER.finditer(folded.text):
        if is_forged(folded.text, *match.span()):
            yield MARKER_WEIGHT, _span(folded, match.span())
    for match in ROLE.finditer(folded.text):
        yield ROLE_WEIGHT, _span(folded, match.span())


def _span(folded: Normalised, found: tuple[int, int]) -> Span:
    start, end = folded.original_span(*found)
    return Span(start=start, end=end, category="injection")
