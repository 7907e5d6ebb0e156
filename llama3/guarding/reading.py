"""What a trained guard reads of a text: disguises undone, with the place of every character in the original.

Base64 is decoded in its place, then the text is normalised (llama3.safety.normalise), more look-alikes and digits that
stand for letters become letters, and all is written small. Training and checking read through this one function.
"""

from __future__ import annotations

import base64
import binascii
import re

from llama3.safety.normalise import Normalised, normalise

_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{16,}(?:\s[A-Za-z0-9+/]{16,})*={0,2}(?![\w+/=])")
_WORD = re.compile(r"[A-Za-z0-9@$]+")
_LOOKALIKES = str.maketrans("мтвкнгпиѵѡոսհզքյημωσγβςđłøħŧ", "mtbkhrnuvwnuhqpjnuwoybcdloht")
"""Small letters that look like Latin ones, beside those that `normalise` knows."""
_LEET = str.maketrans("43105@$", "aeiosas")


def unfolded(text: str) -> Normalised:
    """The text as a guard reads it. Linear in its length."""
    decoded = _decoded(text)
    folded = normalise(decoded.text)
    plain = _WORD.sub(lambda word: _spelt(word[0]), folded.text.translate(_LOOKALIKES))
    small = "".join(lower if len(lower := character.lower()) == 1 else character for character in plain)
    return Normalised(small, tuple(decoded.origin[place] for place in folded.origin))


def _spelt(word: str) -> str:
    """A word of letters and other signs in letters."""
    return word if word.isalpha() or not any(map(str.isalpha, word)) else word.translate(_LEET)


def _decoded(text: str) -> Normalised:
    """With the text in the place of its base64. What decodes to no text stays."""
    pieces: list[str] = []
    origin: list[int] = []
    end = 0
    for match in _BASE64.finditer(text):
        inner = _text_of(match[0])
        if not inner:
            continue
        pieces += [text[end : match.start()], inner]
        origin += range(end, match.start())
        length = match.end() - match.start()
        origin += (match.start() + place * length // len(inner) for place in range(len(inner)))
        end = match.end()
    pieces.append(text[end:])
    origin += range(end, len(text))
    return Normalised("".join(pieces), tuple(origin))


def _text_of(encoded: str) -> str:
    """What base64 says, or "" where that is no text."""
    body = "".join(encoded.split()).rstrip("=")
    try:
        inner = base64.b64decode(body + "=" * (-len(body) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return inner if all(character.isprintable() or character.isspace() for character in inner) else ""
