"""Undo the usual ways of hiding text from a guard, keeping track of where each character came from.

NFKD folding, removal of invisible characters (zero width, bidirectional controls, Unicode tags, fillers), look-alike
letters of other scripts and of boxes, joining of s p a c e d and d-a-s-h-e-d letters, and runs of white space to one.
Guards match on the result and report spans of the original.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_LOOKALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝАВЕКМНОРСТХІЈЅαοεικνρτυχΑΒΕΗΙΚΜΝΟΡΤΥΧıɩɑɡօցᎥᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ\u2800",
    "aeopcyxijshdqwABEKMHOPCTXIJSaoeiknptuxABEHIKMNOPTYXiiagogiabcdefghijklmnoprstuvwyz ",
)
_BOXED = {start + i: ord("A") + i for start in (0x1F130, 0x1F150, 0x1F170, 0x1F1E6) for i in range(26)}
"""Letters in squares and circles, and those of flags."""
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
_SPACED_WORD = re.compile(r"(?<!\w)[^\W_]([ .\-_*/])[^\W_](?:\1[^\W_])+(?!\w)")
"""Three letters or more with the same sign between all of them."""


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
            characters.append(folded)
            origin.append(index)
    # Words of spaced letters stand two spaces apart: they are joined before runs of white space become one.
    return _one_space(_join_spaced_words(Normalised("".join(characters), tuple(origin))))


def _fold(character: str) -> str:
    if character.isascii():
        return character
    if character in _FILLERS:
        return ""
    parts = unicodedata.normalize("NFKD", character.translate(_BOXED))
    # Cf: zero-width and bidirectional controls, tags, soft hyphen. Mn: combining marks put over letters, also those of
    # one character with its letter, which is a look-alike only without them.
    return "".join(c for c in parts if unicodedata.category(c) not in ("Cf", "Mn")).translate(_LOOKALIKES)


def _one_space(source: Normalised) -> Normalised:
    """The first white space of every run, so that patterns over gaps stay linear in the text."""
    text = source.text
    keep = [i for i, c in enumerate(text) if not (i and c.isspace() and text[i - 1].isspace())]
    if len(keep) == len(text):
        return source
    return Normalised("".join(text[i] for i in keep), tuple(source.origin[i] for i in keep))


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
