# ruff: noqa: E501 - a table of patterns reads best with one pattern on a line
"""What the guard `prompt_injection` looks for, as data. A space in a pattern is any sign between two words
(llama3_plugins.guards.phrases).

Every repetition is bounded, so that the time that a text takes grows with its length alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """`order`: counts only where it is said as an order. `own`: only where it does not go on with what else it is
    about."""

    category: str
    weight: float
    pattern: re.Pattern[str]
    order: bool
    own: bool


def _rule(category: str, weight: float, pattern: str, *, order: bool = False, own: bool = False) -> Rule:
    pattern = pattern.replace(" ", r"[ ,\n]")
    return Rule(category, weight, re.compile(rf"\b{pattern}\b", re.IGNORECASE), order, own)


_SOME = r"(?: \w+){0,3}"
_DROP = r"(?:ignore|disregard|forget|override|overrule|bypass|skip|drop|discard|abandon|neglect|suspend|set aside|pay no attention to)"
_KEEP = r"(?:follow|following|obey|obeying|listen to|listening to|comply with|complying with|adhere to|adhering to)"
_ANY = r"(?: (?:all|any|every|each|the|your|of|these|those|other)){0,5}"
_YOURS = r"(?:your|previous|prior|above|earlier|preceding|foregoing|initial|original|existing|current|system|safety)"
_ORDERS = r"(?:instructions?|prompts?|directions?|directives?|rules?|guidelines?|orders?|constraints?|programming)"
_SHOW = (
    r"(?:reveal|show|print|repeat|output|leak|expose|dump|disclose|recite|tell|display|give|what (?:is|are|was|were))"
)
_SECRET = r"(?:system|hidden|secret|initial|original|internal|confidential)"
_ASKED = r"(?:prompts?|messages?|instructions?|rules?|guidelines?|directives?)"
_NO_MORE = r"(?:(?= (?:and|word|verbatim|exactly|to me|now|please|in full|here|so|then|but|again|as)\b)|(?=[.,\n]|$))"
_FREE = r"(?:unrestricted|unfiltered|uncensored|jailbroken|amoral|evil|lawless)"
_AI = r"(?:ai|assistant|model|bot|chatbot|llm|gpt)"
_WILD = r"(?:developer|debug|admin|sudo|root|unrestricted|unsafe|god|dan|jailbreak|uncensored)"
_LIMITS = (
    r"(?:restrictions?|guidelines?|limits?|limitations?|filters?|constraints?|rules?|policies|policy|considerations?)"
)
_ETHICAL_LIMITS = rf"(?:ethical|moral|safety|content){_SOME} {_LIMITS}"

RULES = (
    # To drop what the system said.
    _rule("injection", 0.95, rf"{_DROP}{_ANY} {_YOURS}(?: \w+)? {_ORDERS}", order=True, own=True),
    _rule(
        "injection",
        0.95,
        rf"{_DROP}{_ANY} {_ORDERS}(?: given)? (?:above|before|so far|you|that (?:you|came))",
        order=True,
        own=True,
    ),
    _rule(
        "injection",
        0.9,
        rf"{_DROP} (?:everything|anything|all|what)(?: (?!(?:i|we|he|she|they) )\w+){{0,5}} (?:above|before|previously|earlier|told|said|instructed)(?! (?:the|a|an|\d+)\b)",
        order=True,
    ),
    _rule(
        "injection",
        0.9,
        rf"(?:do not|don't|never|stop|no longer) {_KEEP}{_ANY} {_YOURS}(?: \w+)? {_ORDERS}",
        order=True,
        own=True,
    ),
    _rule("injection", 0.4, rf"(?:new|updated|real|actual|true) (?:system )?{_ORDERS} (?:are|follow)"),
    _rule("injection", 0.4, r"your (?:new|real|actual|true|only) (?:task|goal|job|purpose|instructions?) (?:is|are)"),
    # To give away what the system said.
    _rule("injection", 0.85, rf"{_SHOW}{_SOME} your(?: {_SECRET}){{1,2}} {_ASKED}"),
    _rule(
        "injection",
        0.85,
        rf"{_SHOW}(?: (?:me|us|out|all|the|of|whole|full|entire|text)){{0,4}}(?: {_SECRET}){{1,2}} {_ASKED}{_NO_MORE}",
        order=True,
    ),
    _rule(
        "injection",
        0.8,
        r"(?:repeat|print|output|copy|recite) (?:everything|all|all of it|the (?:text|words|content)) (?:above|before this|so far)",
        order=True,
    ),
    _rule(
        "injection",
        0.8,
        r"(?:reveal|leak|expose|dump|disclose)(?: \w+){0,2} (?:hidden|secret|confidential) (?:text|content|context)",
        order=True,
    ),
    # To be another one, without rules.
    _rule(
        "jailbreak",
        0.9,
        rf"(?:you are|you're|act as|be|become|pretend to be|pretend you are|roleplay as|simulate){_SOME} {_FREE}(?: \w+)? {_AI}",
    ),
    _rule("jailbreak", 0.9, r"(?:you are|you're|act as|be|become)(?: now)? (?-i:DAN)"),
    _rule("jailbreak", 0.9, r"do anything now"),
    _rule(
        "jailbreak",
        0.85,
        rf"(?:enable|activate|enter|switch to|switch into|turn on|go into|start){_SOME} {_WILD} mode",
        order=True,
        own=True,
    ),
    # To have no limits.
    _rule(
        "jailbreak",
        0.85,
        rf"(?:answer|respond|reply|act|speak|talk|behave|operate|continue|work|chat){_SOME} (?:without|with no|no|free of|free from){_SOME} {_ETHICAL_LIMITS}",
        order=True,
        own=True,
    ),
    _rule("jailbreak", 0.85, rf"(?:{_DROP}|disable|remove|turn off){_ANY} {_ETHICAL_LIMITS}", order=True, own=True),
    _rule("jailbreak", 0.8, rf"you (?:have|are under|follow|obey) no(?: \w+){{0,2}} {_LIMITS}", own=True),
    _rule(
        "jailbreak", 0.6, r"(?:never|don't|do not|must not) (?:refuse|decline) (?:to answer|me|my|any|a)", order=True
    ),
)

MARKER = re.compile(r"<\s?\|\s?\w{2,30}\s?\|\s?>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>", re.IGNORECASE)
"""What chat formats write between messages."""
MARKER_WEIGHT = 0.9
ROLE = re.compile(
    r"(?:^|\n)[\s#>*_-]{0,8}(?:system|assistant)(?: (?:prompt|message|note|override))?[*_]{0,2} ?:\s?[*_]{0,2}\s?"
    r"(?:you (?:are|must|will|now|should|answer|obey)|from now|ignore|disregard|forget|override|disable|enable|do not|"
    r"new (?:instructions?|rules?|task|prompt|directives?))\b",
    re.IGNORECASE,
)
"""A line as if another one spoke."""
ROLE_WEIGHT = 0.85
