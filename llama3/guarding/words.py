"""Words that stand together without a gap between them are parted: letters that were all spaced alike, or run together.

Whoever puts a space between all letters, those of one word and those of the next alike, leaves no trace of where words
end. It is found again as the likeliest sequence of words, each as likely as its rank among those of the texts that a
guard learnt from says (Zipf's law); letters that are no word cost by their number.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from llama3.safety.normalise import Normalised

LONG = 12
"""Letters in a row from which on they are parted, unless they are a word."""
LONGEST = 24
"""Letters of a word that is found, at most."""
MOST = 8192
"""Words that are kept."""
PER_LETTER = 2.5
"""What a letter of no known word costs beside the cost of the rarest word: a known short word is cheaper."""

_LETTERS = re.compile(r"[a-z]+")


def common_words(texts: Iterable[str]) -> tuple[str, ...]:
    """The words of texts as a guard reads them, the most frequent first; one that occurs once counts for nothing."""
    counts = Counter(word for text in texts for word in _LETTERS.findall(text) if len(word) <= LONGEST)
    return tuple(word for word, count in counts.most_common(MOST) if count > 1)


def costs_of(words: Sequence[str]) -> Mapping[str, float]:
    """What each word costs, by its rank: minus the logarithm of its share, by Zipf's law."""
    total = math.log(len(words) + 1) + 1
    return {word: math.log(rank * total) for rank, word in enumerate(words, 1)}


def parted(read: Normalised, costs: Mapping[str, float]) -> Normalised:
    """With a space wherever a word ends within a long run of letters. Linear in the text."""
    pieces: list[str] = []
    origin: list[int] = []
    end = 0
    for match in _LETTERS.finditer(read.text):
        if len(match[0]) < LONG or match[0] in costs:
            continue
        for place in _ends(match[0], costs)[:-1]:
            pieces += [read.text[end : match.start() + place], " "]
            origin += [*read.origin[end : match.start() + place], read.origin[match.start() + place]]
            end = match.start() + place
    if not pieces:
        return read
    return Normalised("".join([*pieces, read.text[end:]]), (*origin, *read.origin[end:]))


def _ends(letters: str, costs: Mapping[str, float]) -> list[int]:
    """Where each word of the cheapest sequence ends."""
    unknown = max(costs.values(), default=0.0)
    best, begins = [0.0], [0]
    for end in range(1, len(letters) + 1):
        found = [
            (best[start] + costs.get(letters[start:end], unknown + PER_LETTER * (end - start)), start)
            for start in range(max(0, end - LONGEST), end)
        ]
        cost, start = min(found)
        best.append(cost)
        begins.append(start)
    ends = []
    place = len(letters)
    while place:
        ends.append(place)
        place = begins[place]
    return ends[::-1]
