"""Words that rules can be matched on, and whether a match is said to the model or about something else.

Between two words of `words_of` stands one sign: a full stop where a sentence ends, a newline where a line does, a comma
where a clause does, else a space. So nothing that stands between words (markup, quotes, dots) hides them.
"""

from __future__ import annotations

import re

from llama3.guards import Normalised

_WORD_OR_TAG = re.compile(r"</?[A-Za-z]{1,10}/?>|[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_ENDS = re.compile(r"[.!?]\W?\s")
_WITHIN_A_CLAUSE = re.compile(r"[\s\"'`*_.\u2018-\u201d-]*")
"""What may stand between two words of one clause."""
_DASH = re.compile(r"\s-+\s")
_DIGITS_FOR_LETTERS = str.maketrans("43105\u2019", "aeios'")
_NEAR = 160
"""Characters on either side of a match that are looked at, so that many matches stay cheap."""

_LEAD_IN = re.compile(
    r"(?:(?:after(?:wards)?|ahead|ai|also|always|assistant|be|can|chatgpt|completely|could|finally|first|forth|forward|"
    r"from|go|hello|henceforth|here|hey|hi|immediately|instead|is|job|just|kindly|let's|llama|make|must|needs?|new|next|"
    r"now|ok|okay|on|only|please|point|remember|shall|should|simply|sure|system|task|that|this|to|today|try|will|would|"
    r"your)(?: |$))*"
)
"""What may stand between the beginning of a clause and an order."""
_BEGIN_ANEW = frozenset({"and", "but", "or", "so", "then", "you", "you'll"})
_QUESTION = re.compile(
    r"(?:are|can't|did|do (?:i|people|they|we|you)|does|how|if|is|should|was|what|when|where|which|who|why)\b"
)
"""How a clause begins that asks, or supposes."""
_TALK = re.compile(
    r"\b(?:article|attacks?|call(?:s|ed)?|chapter|classif\w+|detect\w*|examples?|joke|lines?|mean(?:s|ing)?|motto|"
    r"named|paper|phrases?|prompts such|quotes?|quoted|regex|sa(?:id|ys?)|sentences?|slogans?|songs?|spell\w*|strings?|"
    r"summari[sz]e|terms?|texts?|titled?|translat\w+|words?|wrote)\b",
    re.IGNORECASE,
)
"""Words of sentences about words: a quote beside them is mentioned, not said."""
_IS_A_SUBJECT = re.compile(r" (?:is|was|are|were|means?|refers|became)\b", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}
"""Signs that open a quote, and those that close it."""
_ELSEWHERE = re.compile(
    r" (?:about|at|for|from|in|of|on)[ ,\n]"
    r"(?!(?:this|these|that|your|you|us|me|now|ever|fav\w+|here|full|all|any)\b)"
    r"(?!(?:the|our)[ ,\n](?:rest|system|developers?|users?|chat|conversation|prompt|context|session|assistant)\b)",
    re.IGNORECASE,
)
"""How a match goes on that speaks of the rules, modes and limits of something else: "in vim", "of the doctor"."""


def words_of(folded: Normalised) -> Normalised:
    """The words of a normalised text, with one sign between two of them. Linear in its length."""
    text: list[str] = []
    origin: list[int] = []
    end = 0
    for match in _WORD_OR_TAG.finditer(folded.text):
        if match[0].startswith("<"):
            continue
        gap = folded.text[end : match.start()]
        if text and gap != "-\n":  # a word that is broken at the end of a line is one
            text.append(_sign(gap))
            origin.append(folded.origin[end])
        text.append(_plain(match[0]))
        origin += folded.origin[match.start() : match.end()]
        end = match.end()
    return Normalised("".join(text), tuple(origin))


def _sign(gap: str) -> str:
    if _SENTENCE_ENDS.search(gap):
        return "."
    if "\n" in gap:
        return "\n"
    return " " if _WITHIN_A_CLAUSE.fullmatch(gap) and not _DASH.search(gap) else ","


def _plain(word: str) -> str:
    """Letters for the digits in a word of both."""
    return word.translate(_DIGITS_FOR_LETTERS) if not word.isdigit() else word


def is_order(words: str, start: int) -> bool:
    """Whether what begins at `start` is an order: its clause begins there, but for words that lead in."""
    before = words[max(0, start - _NEAR) : start]
    clause = re.split(r"[.,\n]", before)[-1].strip().lower()
    words_before = clause.split()
    begun = max((i for i, word in enumerate(words_before, 1) if word in _BEGIN_ANEW), default=0)
    return _LEAD_IN.fullmatch(" ".join(words_before[begun:])) is not None and not _QUESTION.match(clause)


def is_elsewhere(words: str, end: int) -> bool:
    """Whether what ends at `end` goes on with the thing that it is about."""
    return _ELSEWHERE.match(words, end) is not None


def is_mentioned(words: str, end: int, text: str, span: tuple[int, int]) -> bool:
    """Whether a match is talked about: it is the subject of a sentence, or stands in quotes in a sentence about words.
    `span` is where it stands in the text as written."""
    if _IS_A_SUBJECT.match(words, end):
        return True
    before = re.split(r"[.!?\n]", text[max(0, span[0] - _NEAR) : span[0]])[-1]
    after = re.split(r"[.!?\n]", text[span[1] : span[1] + _NEAR])[0]
    closing = _QUOTES.get(before[-1:])
    return closing is not None and closing in after and _TALK.search(f"{before} {after}") is not None


def is_forged(text: str, start: int, end: int) -> bool:
    """Whether a marker of a chat format stands as it would there: at the beginning of a line, or right beside text, not
    as a word of a sentence."""
    before, after = text[start - 1 : start] if start else "\n", text[end : end + 1]
    if _IS_A_SUBJECT.match(text, end):
        return False
    return before == "\n" or before.isalnum() or before in (">", "]") or after.isalnum() or after in ("<", "[")
