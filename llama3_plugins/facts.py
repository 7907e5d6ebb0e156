"""Facts that are made up, to be found again in a text: a key and its number, as a sentence. Torch-free."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import AfterValidator

SENTENCE = "The magic number of {key} is {value}."

KEYS = (
    "Accra", "Ankara", "Athens", "Berlin", "Bogota", "Boston", "Brno", "Cairo", "Calgary", "Dakar", "Delhi", "Denver",
    "Dublin", "Geneva", "Hanoi", "Havana", "Jakarta", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Madrid", "Manila",
    "Minsk", "Mumbai", "Nairobi", "Osaka", "Oslo", "Paris", "Porto", "Prague", "Quito", "Riga", "Rome", "Seoul",
    "Sofia", "Sydney", "Tallinn", "Tokyo", "Tunis", "Turin", "Vienna", "Vilnius", "Warsaw", "Yerevan", "Zagreb",
    "Zurich",
)  # fmt: skip


def _with_both(sentence: str) -> str:
    """A key, then its number, each once."""
    if sentence.count("{key}") != 1 or sentence.count("{value}") != 1:
        raise ValueError("a sentence has {key} and {value} once each")
    if sentence.index("{key}") > sentence.index("{value}"):
        raise ValueError("{key} stands before {value}, which is asked for")
    return sentence


Sentence = Annotated[str, AfterValidator(_with_both)]
"""With `{key}`, and after it `{value}`."""


def told(sentence: str, key: str, value: str) -> str:
    """The whole sentence."""
    return sentence.replace("{key}", key).replace("{value}", value)


def asked(sentence: str, key: str) -> str:
    """The sentence up to its number, without the space before it."""
    return sentence[: sentence.index("{value}")].replace("{key}", key).rstrip(" ")


def drawn_value(rng: random.Random, digits: int) -> str:
    """A number of so many digits, the first of which is not 0."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))
