"""What a model is asked of a passage, and what is taken of its answer.

Rephrasing in several styles is from WRAP (Maini et al. 2024), questions and facts beside it from Nemotron-CC (Su et al.
2024); the words are our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama3 import _core
from llama3.config.synthesis import Writing
from llama3.safety.refusals import judge

STYLES = (
    "in the clear and even tone of a good encyclopedia",
    "as a teacher explains it to a class, step by step",
    "as a talk of two people who know the subject",
    "as short as it can be said in whole sentences",
)
"""Of rephrasing: one is drawn for each passage."""

ASKED: dict[Writing, str] = {
    "rephrase": "Rewrite the text below {style}. Keep every fact, name and number, and add none. Write in the language "
    "of the text, and write only the new text.",
    "questions": "Write questions that the text below answers, each with its answer, in the language of the text. "
    "Every question has a line that begins with 'Question:', its answer the next line, which begins with 'Answer:'. "
    "Use nothing that the text does not say.",
    "extract": "Write down what the text below states, in its language: one whole sentence a line, each to be "
    "understood without the text. Leave out opinions and everything about the page itself. Write only these sentences.",
}
PAIR = re.compile(
    r"^[^a-z\n]*(?:question|q)[ \d]*[:.][^\w\n]*(\S.*)\n+[^a-z\n]*(?:answer|a)[ \d]*[:.][^\w\n]*(\S.*)$", re.I | re.M
)
BULLET = re.compile(r"^\s*(?:[-*•–]|\d+[.)])\s+")
PREAMBLE = re.compile(r"^(?:sure|certainly|of course|here(?:'s| is| are))\b[^\n]*:\s*\n", re.I)
WORD = re.compile(r"[^\W_]+")
ENDS = ("\n\n", "\n", ". ", "。", " ")
"""Where a passage may end, best first."""
LEAST_WORDS, SHORTEST, LONGEST = 5, 0.2, 3.0
"""Words of a text; of a rephrased one over those of its passage, from and up to."""
RUN, MOST_COPIED = 5, 0.8
"""Words of the runs that rephrased text may share with its passage, and the share of its runs that may."""


def passages(text: str, most: int) -> Iterator[str]:
    """The text in pieces of at most `most` characters, cut between paragraphs, else between sentences, words, or where
    it must. Nothing is lost but the space between pieces."""
    text = text.strip()
    while len(text) > most:
        ends = (_last(text, sign, most) for sign in ENDS)
        cut = next((at for at in ends if at > most // 4), most)
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


def _last(text: str, sign: str, most: int) -> int:
    """Where the last `sign` ends that does within `most` characters; 0 where none does."""
    found = text.rfind(sign, 0, most)
    return found + len(sign) if found >= 0 else 0


def style_of(key: str, task: Writing) -> str:
    """The style in which what has this key is written; "" where the task has none."""
    return STYLES[int(_core.blake3_bytes(key.encode())[:8], 16) % len(STYLES)] if task == "rephrase" else ""


def asked(task: Writing, passage: str, style: str = STYLES[0]) -> str:
    """What a model is asked."""
    return f"{ASKED[task].format(style=style)}\n\nText:\n{passage}"


def text_of_answer(task: Writing, passage: str, answer: str) -> tuple[str, str]:
    """What an answer is worth: (text, "") or ("", why it is none).

    Reasons: `garbage` and `refused` (llama3.safety.refusals), `no_form` where it is not what was asked, and of
    rephrased text `too_short`, `too_long` and `copied`.
    """
    text = PREAMBLE.sub("", answer.strip()).strip()
    verdict = judge(text)
    if verdict != "answered":
        return "", verdict
    if task == "questions":
        text = "\n\n".join(f"Question: {ask.strip()}\nAnswer: {said.strip()}" for ask, said in PAIR.findall(text))
        return (text, "") if text else ("", "no_form")
    if task == "extract":
        rows = [BULLET.sub("", line).strip() for line in text.splitlines()]
        text = "\n".join(row for row in rows if len(WORD.findall(row)) >= LEAST_WORDS)
        return (text, "") if text else ("", "no_form")
    return _rephrased(passage, text)


def _rephrased(passage: str, text: str) -> tuple[str, str]:
    before, after = WORD.findall(passage.casefold()), WORD.findall(text.casefold())
    if len(after) < max(LEAST_WORDS, SHORTEST * len(before)):
        return "", "too_short"
    if len(after) > LONGEST * len(before):
        return "", "too_long"
    here, there = (set(zip(*(words[n:] for n in range(RUN)), strict=False)) for words in (after, before))
    return ("", "copied") if len(here & there) > MOST_COPIED * max(1, len(here)) else (text, "")
