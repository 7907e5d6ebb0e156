"""English-looking texts for the data tests."""

from __future__ import annotations

import random
import unicodedata

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "river",
    "mountain",
    "engine",
    "paper",
    "model",
    "signal",
    "garden",
    "history",
    "market",
    "winter",
    "letter",
    "bridge",
    "music",
    "village",
    "ocean",
    "method",
    "theory",
    "animal",
    "window",
    "answer",
    "number",
    "circle",
    "forest",
    "planet",
    "doctor",
    "teacher",
    "memory",
    "reason",
    "with",
    "that",
    "have",
    "be",
    "light",
    "water",
    "stone",
    "bread",
    "morning",
    "station",
    "father",
    "language",
    "question",
    "story",
    "science",
    "nature",
]


def prose(seed: int, words: int = 120) -> str:
    """English-looking text that Gopher's rules keep; different seeds share no long run of words."""
    rng = random.Random(seed)
    sentences = []
    while words > 0:
        length = min(words, rng.randint(6, 14))
        sentences.append(" ".join(rng.choices(WORDS, k=length)).capitalize() + ".")
        words -= length
    return " ".join(sentences)


def line_form(line: str) -> str:
    """The normal form of a line, by Python's Unicode database."""
    decomposed = unicodedata.normalize("NFD", "".join(c.lower() for c in line))
    out = ""
    for c in decomposed:
        category = unicodedata.category(c)
        if c.isspace():
            out += " "
        elif category == "Nd":
            out += "0"
        elif category != "Mn" and category[0] not in "PC":
            out += c
    return " ".join(out.split())
