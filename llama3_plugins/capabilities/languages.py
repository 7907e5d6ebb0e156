"""In which script and in which language a text is, as far as that can be read off it without a model.

The script is that of most letters. Languages that share the Latin script are told apart by their commonest words; a
word that several have in common counts a part for each. Romanised Hindi is one of them: Hindi that is no Devanagari.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "it": "Italian",
    "pt": "Portuguese",
    "es": "Spanish",
    "hi": "Hindi",
    "hi-Latn": "Hindi, written in Latin letters as people type it,",
    "th": "Thai",
}
"""The languages that Llama 3 supports (paper 4.3.2), Hindi in both of its scripts; and what a model is told of each."""
SCRIPTS = {"hi": "DEVANAGARI", "th": "THAI"}
"""Of the languages that are not written in Latin letters."""
_COMMON = {
    "en": "the of and to in is that it was for on are with as his they be at one have this from or had by but"
    " what some we can out other were all there when your how said an each she which do their if will you"
    " about",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden"
    " aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur"
    " oder aber vor zur bis mehr",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se il ce ou sont"
    " avec son aux cette ses mais comme on nous vous elle leur être fait je c'est ils à été deux même tout"
    " très",
    "it": "di e il la che in a per è un del non una sono le della con si i da al come dei nel più alla anche"
    " gli o ha lo ma delle se su degli questo era essere nella dalla suo loro quando perché molto ci",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem"
    " à seu sua ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me"
    " si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde"
    " está",
    "hi-Latn": "hai ka ki ke mein ko se aur ek nahi yeh woh bhi hain par kya ho kar tha thi the raha rahi aap main"
    " mera hum kaise kyun kab kahan kuch bahut kaun liye gaya jab tak apne iska uska chahiye hota hoti"
    " karne wala ya toh matlab agar lekin unka sakte",
}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
FEW = 6
"""Words below which a text may be of any language of its script."""
CLEAR, LEAST = 1.3, 0.08
"""Of the words of the likeliest language: how many times as many as of the next one, and their share of all words."""
MIXED = 0.15
"""The share of letters of another script from which a text is no longer in one script."""


def _weights() -> dict[str, dict[str, float]]:
    """Of every word, how much it speaks for each language."""
    owners: dict[str, list[str]] = {}
    for language, words in _COMMON.items():
        for word in words.split():
            owners.setdefault(word, []).append(language)
    return {word: dict.fromkeys(languages, 1 / len(languages)) for word, languages in owners.items()}


_WEIGHTS = _weights()


@lru_cache(maxsize=4096)
def _named_script(letter: str) -> str:
    """The first word of a letter's name, such as LATIN. Chinese signs and the Japanese syllables are one script, for
    Japanese is written in both."""
    name = unicodedata.name(letter, "").split(" ")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA") else name


def scripts(text: str) -> Counter[str]:
    """Letters by script, those of code and addresses left out. Signs of vowels belong to their letters."""
    plain = unicodedata.normalize("NFC", _CODE.sub(" ", text))
    return Counter(_named_script(sign) for sign in plain if sign.isalpha())


def script_of(text: str) -> str:
    """The script of most letters; "" of a text without letters."""
    found = scripts(text)
    return max(found, key=lambda name: (found[name], name)) if found else ""


def language_of(text: str) -> str:
    """The language, as a key of NAMES; "" where it cannot be told."""
    of_script = {name: tag for tag, name in SCRIPTS.items()}
    written = script_of(text)
    if written != "LATIN":
        return of_script.get(written, "")
    words = [word.casefold() for word in _WORD.findall(_CODE.sub(" ", text))]
    said: Counter[str] = Counter()
    for word in words:
        said.update(_WEIGHTS.get(word, {}))
    (first, most), (_, next_most) = [*said.most_common(2), ("", 0.0), ("", 0.0)][:2]
    return first if len(words) >= FEW and most >= LEAST * len(words) and most >= CLEAR * next_most else ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a text must be written in."""

    script: str
    language: str

    @classmethod
    def of_language(cls, tag: str) -> Wanted:
        return cls(SCRIPTS.get(tag, "LATIN"), tag)

    def fault(self, text: str) -> str:
        """Why a text is not in it: `other_script`, `mixed_scripts`, `other_language`; "" where it is, or where it has
        no letters, as a number has none."""
        found = scripts(text)
        if not found:
            return ""
        if script_of(text) != self.script:
            return "other_script"
        if 1 - found[self.script] / found.total() > MIXED:
            return "mixed_scripts"
        spoken = language_of(text)
        return "other_language" if spoken not in ("", self.language) else ""
