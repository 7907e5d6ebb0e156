"""Disguises of a text, as attackers use them: a guard learns from them, and is tested on them."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Mapping

_LOOKALIKES = str.maketrans("aceiopsxyjhABCEHIKMOPTXnmud", "асеіорѕхујһАВСЕНІКМОРТХոмսԁ")
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
_DIGITS = str.maketrans("aeiosAEIOS", "4310543105")


def spaced(text: str, rng: random.Random) -> str:
    """Every letter apart; half of the texts keep wider gaps between words."""
    gap = rng.choice(("  ", " "))
    return gap.join(" ".join(word) for word in text.split())


def lookalikes(text: str, rng: random.Random) -> str:
    """Letters of other alphabets in the place of most that have one."""
    return "".join(c.translate(_LOOKALIKES) if rng.random() < 0.7 else c for c in text)


def zero_width(text: str, rng: random.Random) -> str:
    """Invisible characters within words."""
    return "".join(c + rng.choice(_ZERO_WIDTH) if c.isalpha() and rng.random() < 0.5 else c for c in text)


def leetspeak(text: str, rng: random.Random) -> str:
    """Digits in the place of most vowels and s."""
    return "".join(c.translate(_DIGITS) if rng.random() < 0.8 else c for c in text)


def in_base64(text: str, rng: random.Random) -> str:
    """The whole text encoded."""
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


DISGUISES: Mapping[str, Callable[[str, random.Random], str]] = {
    "spacing": spaced,
    "homoglyphs": lookalikes,
    "zero_width": zero_width,
    "leetspeak": leetspeak,
    "base64": in_base64,
}


def disguised(text: str, name: str, seed: int) -> str:
    """The text in a disguise: a function of text, name and seed."""
    digest = hashlib.blake2b(f"{seed}:{name}:{text}".encode("utf-8", "replace"), digest_size=8).digest()
    return DISGUISES[name](text, random.Random(int.from_bytes(digest, "little")))
