"""How a word may be spelt that begins an answer."""

from __future__ import annotations


def ways_of(word: str) -> list[str]:
    """How an answer may begin that is this word."""
    return [f"{space}{spelling}" for space in ("", " ") for spelling in (word, word.capitalize())]
