"""Strings: repeating, picking, joining and rewriting words.

Instances combine words, so that every word occurs in training but the combinations of the held-out tasks do not.
"""

from __future__ import annotations

from random import Random

from llama3.tasks.families.words import WORDS
from llama3.tasks.task import Args, exact

SEPARATORS = {"dash": "-", "slash": "/", "dot": ".", "colon": ":", "comma": ","}
PLACES = {"first": 0, "second": 1, "last": -1}


def _words(rng: Random, count: int) -> Args:
    return tuple(rng.sample(WORDS, count))


FAMILIES = (
    exact(
        "string.repeat",
        "text",
        ("Repeat the word {0} {1} times.", "Say {0} {1} times.", "Write the word {0} {1} times."),
        lambda rng: (rng.choice(WORDS), rng.randrange(2, 8)),
        lambda word, n: " ".join([word] * n),
    ),
    exact(
        "string.swap",
        "text",
        ("Swap the words {0} {1}.", "Write the words {0} {1} in reverse order."),
        lambda rng: _words(rng, 2),
        lambda a, b: f"{b} {a}",
    ),
    exact(
        "string.join",
        "text",
        ("Join {0} and {1} with a {2}.", "Put a {2} between {0} and {1}."),
        lambda rng: (*_words(rng, 2), rng.choice(list(SEPARATORS))),
        lambda a, b, sep: a + SEPARATORS[sep] + b,
    ),
    exact(
        "string.pick",
        "text",
        ("What is the {0} word of: {1} {2} {3}?", "Give the {0} word of: {1} {2} {3}."),
        lambda rng: (rng.choice(list(PLACES)), *_words(rng, 3)),
        lambda place, *words: words[PLACES[place]],
    ),
    exact(
        "string.upper",
        "text",
        ("Write {0} {1} in upper case.", "Change {0} {1} to capital letters."),
        lambda rng: _words(rng, 2),
        lambda a, b: f"{a} {b}".upper(),
    ),
    exact(
        "string.initials",
        "text",
        ("What are the first letters of {0} and {1}?", "Give the first letters of {0} and {1}."),
        lambda rng: _words(rng, 2),
        lambda a, b: f"{a[0]} {b[0]}",
    ),
    exact(
        "string.length",
        "integer",
        ("How many letters are in {0} {1}?", "Count the letters of {0} {1}."),
        lambda rng: _words(rng, 2),
        lambda a, b: str(len(a + b)),
    ),
)
