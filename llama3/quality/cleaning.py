"""Cleaning rules (paper 4.2.3): signs of a tone that a model must not learn as a habit.

One apology is fine, a model that always apologises is not. So a sign is no fault of a dialog: it may be shown by a
share of all dialogs, and what is beyond that share goes, the worst dialogs first. English, with the commonest apologies
and openings of German, French and Spanish.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from llama3.config.data_quality import Sign
from llama3.safety.refusal_evidence import plain, refusal_probability
from llama3.safety.tone import FAULTS

WORDS_PER_EMOJI, WORDS_PER_EXCLAMATION = 50, 30
"""Words of an answer for each of which one is not excessive; one alone never is."""
MOST_PREACHING = 1
APOLOGY = re.compile(
    r"\b(?:i(?:'m| am| was)? (?:so |very |truly |deeply |really |do |sincerely )*(?:sorry|apologi[sz]e|regret)"
    r"|(?:my|our) (?:\w+ )?apologies|apologies for|sorry (?:for|about|if|that|to hear|but)"
    r"|(?:es )?tut mir leid|ich entschuldige|entschuldigung|désolée?s?\b|je m'excuse|lo siento|disculpa|perdón)"
)
AS_AN_AI = re.compile(
    r"^\W*(?:(?:well|sorry|unfortunately|i(?:'m| am) sorry)\W+(?:but )?)*"
    r"(?:as|being|since i(?:'m| am)|i(?:'m| am)) (?:just |only )?an? (?:\w+[ -]){0,3}"
    r"(?:ai|assistant|language model|chatbot)\b"
)
OPENING = re.compile(
    r"^\W*(?:certainly|absolutely|sure(?: thing)?|of course|definitely|happy to help|i(?:'d| would) be happy to"
    r"|(?:what an? |that(?:'s| is) an? )?(?:great|excellent|good|wonderful|fantastic|fascinating|interesting) question"
    r"|gerne|natürlich|bien sûr|claro|por supuesto)\b"
)
PREACHING = re.compile(FAULTS["preaches"])
EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001faff\u2600-\u27bf\u2b50\u2b55]"
    "[\ufe0f\U0001f3fb-\U0001f3ff]*(?:\u200d[\U0001f300-\U0001faff\u2600-\u27bf]\ufe0f?)*"
)
"""One picture each, with its variants and what is joined to it."""
EXCLAMATION = re.compile(r"!(?![=\[])")
"""Not that of `!=`, nor that of a picture in markdown."""
FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def prose(answer: str) -> str:
    """An answer without code."""
    return FENCED.sub(" ", answer)


def _apologises(answer: str, question: str) -> bool:
    """In an answer that is no refusal: refusals may."""
    return bool(APOLOGY.search(plain(prose(answer)))) and refusal_probability(answer, question) < 0.5


def _preaches(answer: str, question: str) -> bool:
    return len(PREACHING.findall(plain(prose(answer)))) > MOST_PREACHING


def _too_many(pattern: re.Pattern[str], words: int) -> Callable[[str, str], bool]:
    def found(answer: str, question: str) -> bool:
        text = prose(answer)
        return len(pattern.findall(text)) > max(1, len(text.split()) // words)

    return found


def _begins_with(pattern: re.Pattern[str]) -> Callable[[str, str], bool]:
    return lambda answer, question: pattern.match(plain(answer)) is not None


SIGNS: dict[Sign, tuple[str, Callable[[str, str], bool]]] = {
    "apology": ("an apology in an answer that is no refusal", _apologises),
    "as_an_ai": ('an answer that begins with what the model is, "As an AI"', _begins_with(AS_AN_AI)),
    "opening": ('an answer that begins with "Certainly!", "Great question"', _begins_with(OPENING)),
    "preaching": ("more than one of the phrases by which refusals preach", _preaches),
    "emoji": ("more than one emoji, and more than one in 50 words", _too_many(EMOJI, WORDS_PER_EMOJI)),
    "exclamation": (
        "more than one exclamation mark, and more than one in 30 words", _too_many(EXCLAMATION, WORDS_PER_EXCLAMATION),
    ),
}  # fmt: skip
"""What shows each sign, in words and as a function of an answer and the message before it."""
COUNTED = {"emoji": EMOJI, "exclamation": EXCLAMATION}
"""Marks whose rate is told too."""


def signs_of(answers: Sequence[tuple[str, str]]) -> list[Sign]:
    """The signs that any of a dialog's answers shows, each given with the message before it."""
    return [sign for sign, (_, shows) in SIGNS.items() if any(shows(answer, asked) for answer, asked in answers)]


def rates(dialogs: Sequence[Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Of each mark how many there are in 100 words of the dialogs' answers, code left out."""
    texts = [prose(answer) for answers in dialogs for answer, _ in answers]
    words = sum(len(text.split()) for text in texts)
    return {
        name: round(100 * sum(len(pattern.findall(text)) for text in texts) / max(1, words), 4)
        for name, pattern in COUNTED.items()
    }


def beyond_shares(
    signs: Sequence[Sequence[Sign]], order: Sequence[int], shares: Mapping[Sign, float]
) -> dict[int, Sign]:
    """The dialogs that go, with the sign that they go for, so that of those that stay no sign is shown by more than its
    share. `order`: places of the dialogs, best first; the last ones go.

    What goes for one sign changes the share of another, so the rules are applied again until nothing goes.
    """
    gone: dict[int, Sign] = {}
    before = -1
    while len(gone) > before:
        before = len(gone)
        for sign, share in shares.items():
            if share == 1:
                continue
            left = [place for place in order if place not in gone]
            showing = [place for place in left if sign in signs[place]]
            others = len(left) - len(showing)
            for place in showing[int(others * share / (1 - share) + 1e-9) :]:
                gone[place] = sign
    return gone
