# ruff: noqa: E501 - a table of patterns reads best with one pattern on a line
"""A prompt-injection and jailbreak guard that needs no model: weighted patterns over normalised text.

It catches the plain and the lightly disguised forms; a model-based guard belongs beside it for the rest. Scores
are combined as independent evidence: p = 1 - prod(1 - weight).
"""

from __future__ import annotations

import math
import re

from pydantic import BaseModel, ConfigDict, Field

from llama3.guards import Action, GuardInput, Span, Verdict, normalise

_FLAGS = re.IGNORECASE
_ALL = r"(?:all|any|every|each|the|your|my|our|these|those|of|\s)*"
_BEFORE = r"(?:previous|prior|above|earlier|preceding|foregoing|initial|original|existing|current|system)"
_ORDERS = (
    r"(?:instructions?|prompts?|directions?|directives?|rules?|guidelines?|orders?|messages?|context|constraints?)"
)

PATTERNS: tuple[tuple[str, float, re.Pattern[str]], ...] = tuple(
    (category, weight, re.compile(pattern, _FLAGS))
    for category, weight, pattern in (
        (
            "injection",
            0.95,
            rf"\b(?:ignore|disregard|forget|override|bypass|skip|drop)\s+{_ALL}{_BEFORE}\s+{_ORDERS}",
        ),
        (
            "injection",
            0.9,
            r"\b(?:ignore|disregard|forget|override)\s+(?:everything|anything|all)\b.{0,40}\b(?:above|before|previous|earlier|told|said)",
        ),
        (
            "injection",
            0.9,
            r"\b(?:do not|don't|never|stop)\s+(?:follow|obey|listen to|comply with)\w*\s+"
            + _ALL
            + rf"(?:{_BEFORE}\s+)?{_ORDERS}",
        ),
        (
            "injection",
            0.9,
            r"<\|(?:begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id|python_tag|im_start|im_end)\|>",
        ),
        (
            "injection",
            0.85,
            r"(?:^|\n)\s*(?:###?\s*)?(?:system|assistant)\s*(?:prompt|message|note|override)?\s*:\s*(?:you|new|ignore|disable|enable|from now)",
        ),
        ("injection", 0.85, r"\[/?INST\]|<</?SYS>>"),
        (
            "injection",
            0.8,
            rf"\b(?:new|updated|real|actual|true)\s+(?:system\s+)?{_ORDERS}\s*(?::|are|follow)",
        ),
        (
            "injection",
            0.85,
            rf"\b(?:reveal|show|print|repeat|output|leak|tell me|display|give me|what (?:is|are|was|were))\s+(?:\w+\s+){{0,3}}(?:system\s+(?:prompt|message|instructions?)|hidden\s+{_ORDERS}|initial\s+{_ORDERS})",
        ),
        (
            "jailbreak",
            0.9,
            r"\b(?:you are|act as|become|pretend (?:to be|you are)|roleplay as|simulate)\s+(?:now\s+)?(?:an?\s+)?(?:\w+\s+){0,2}(?:DAN\b|unrestricted|unfiltered|uncensored|jailbroken|amoral|evil)",
        ),
        ("jailbreak", 0.9, r"\bdo anything now\b|\bDAN mode\b|\bjailbreak(?:ed)? mode\b|\bgod mode\b"),
        (
            "jailbreak",
            0.85,
            r"\b(?:enable|activate|enter|switch (?:in)?to|turn on)\s+(?:\w+\s+){0,2}(?:developer|debug|admin|sudo|root|unrestricted|unsafe)\s+mode\b",
        ),
        (
            "jailbreak",
            0.85,
            r"\b(?:without|no|ignore|disable|remove|turn off|free (?:of|from))\s+(?:any\s+|all\s+|your\s+|the\s+)*(?:ethical|moral|safety|content)\s+(?:\w+\s+)?(?:restrictions?|guidelines?|limits?|filters?|constraints?|rules?|policies|considerations?)",
        ),
        (
            "jailbreak",
            0.8,
            r"\byou (?:have|are under) no (?:\w+\s+){0,2}(?:restrictions?|limits?|rules?|filters?|guidelines?)\b",
        ),
        (
            "jailbreak",
            0.6,
            r"\b(?:never|don't|do not|cannot|must not)\s+(?:refuse|decline|say no|apologi[sz]e)\b",
        ),
    )
)


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
        for category, weight, pattern in PATTERNS:
            for match in pattern.finditer(folded.text):
                missed[category] *= 1 - weight
                start, end = folded.original_span(match.start(), match.end())
                spans.append(Span(start=start, end=end, category=category))
        p = 1 - math.prod(missed.values())
        action: Action = "block" if p >= self.options.block else "flag" if p >= self.options.flag else "allow"
        found = ", ".join(sorted({span.category for span in spans}))
        return Verdict(
            action=action,
            p=p,
            categories={category: 1 - rest for category, rest in missed.items()},
            spans=tuple(spans),
            reason=f"looks like {found} (p = {p:.2f})" if found else "",
            version="1",
        )
