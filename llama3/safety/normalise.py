"""Undo the usual ways of hiding text from a guard, keeping track of where each character came from.

NFKC folding, removal of invisible characters (zero width, bidirectional controls, Unicode tags), look-alike
letters of other scripts, runs of white space to one, and joining of s p a c e d letters. Guards match on the result
and report spans of the original.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝАВЕКМНОРСТХІЈЅαοεικνρτυχΑΒΕΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdqwABEKMHOPCTXIJSaoeiknptuxABEHIKMNOPTYX",
)
_SPACED_WORD = re.compile(r"(?<!\w)\w(?:[ .\-_*]\w){3,}(?!\w)")


@dataclass(frozen=True, slots=True)
class Normalised:
    """`text` with `origin[i]` = index in the original of the character that gave `text[i]`."""

    text: str
    origin: tuple[int, ...]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original text that covers `text[start:end]` (which is not empty)."""
        return self.origin[start], self.origin[end - 1] + 1


def normalise(text: str) -> Normalised:
    """Fold `text` for matching. Linear in its length."""
    characters: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        for folded in _fold(character):
            # One white space of a run, so that patterns over gaps stay linear in the text.
            if folded.isspace() and characters and characters[-1].isspace():
                continue
            characters.append(folded)
            origin.append(index)
    return _join_spaced_words(Normalised("".join(characters), tuple(origin)))


def _fold(character: str) -> str:
    if character.isascii():
        return character
    folded = unicodedata.normalize("NFKC", character).translate(_LOOKALIKES)
    # Cf: zero-width and bidirectional controls, tags, soft hyphen. Mn: combining marks put over letters.
    return "".join(c for c in unicodedata.normalize("NFD", folded) if unicodedata.category(c) not in ("Cf", "Mn"))


def _join_spaced_words(source: Normalised) -> Normalised:
    drop = {
        position
        for match in _SPACED_WORD.finditer(source.text)
        for position in range(match.start() + 1, match.end(), 2)
    }
    if not drop:
        return source
    keep = [i for i in range(len(source.text)) if i not in drop]
    return Normalised("".join(source.text[i] for i in keep), tuple(source.origin[i] for i in keep))
