"""How varied texts are: the signs by which it is seen that a model repeats itself, before something is trained on it.

Texts that a model made are less varied than those that people wrote, and models trained on them less varied still
(Shumailov et al. 2024, "AI models collapse when trained on recursively generated data"). No figure alone tells it, and
all depend on how many texts of which length there are: compare with other texts that are as many and as long.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llama3 import _core

_WORD = re.compile(r"[^\W_]+")
MOST_WORDS = 200
"""Of each text: then long texts and short ones are compared by equal pieces."""
MOST_TEXTS = 200
"""That self-BLEU compares, each with each; drawn by their hashes, so that their order does not count."""
BLEU_NGRAMS = 4


@dataclass(frozen=True, slots=True)
class Diversity:
    """What `diversity` counts; a share or a score of no n-gram at all is NaN."""

    texts: int
    words: int
    distinct: tuple[float, ...]
    """Different n-grams among all n-grams, of 1, 2, 3 and 4 words (Li et al. 2016, distinct-n)."""
    entropy: float
    """Of the distribution of 3-grams, in bits, over the entropy of as many different ones: 1 where none comes twice."""
    self_bleu: float
    """Mean BLEU of each text against all others (Zhu et al. 2018): 1 where all are the same."""


def diversity(texts: Sequence[str]) -> Diversity:
    """The figures of some texts, in any order. Words are compared without case and signs, the first 200 of each."""
    told = [_WORD.findall(text.casefold())[:MOST_WORDS] for text in texts]
    counts = [Counter(gram for words in told for gram in _ngrams(words, n)) for n in range(1, BLEU_NGRAMS + 1)]
    order = sorted(range(len(texts)), key=lambda n: _core.blake3_bytes(texts[n].encode("utf-8", "backslashreplace")))
    return Diversity(
        texts=len(texts),
        words=sum(map(len, told)),
        distinct=tuple(_ratio(len(count), count.total()) for count in counts),
        entropy=_entropy(counts[2]),
        self_bleu=self_bleu([told[n] for n in order[:MOST_TEXTS]]),
    )


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(n)), strict=False))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _entropy(counts: Counter[tuple[str, ...]]) -> float:
    total = counts.total()
    if total < 2:
        return math.nan
    bits = -math.fsum(count / total * math.log2(count / total) for count in counts.values())
    return bits / math.log2(total)


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """The mean BLEU (Papineni et al. 2002; up to 4 words, add-one from 2 words on) of each text, a list of words, with
    all others as its references; NaN where there are not two with a word."""
    texts = [words for words in texts if words]
    if len(texts) < 2:
        return math.nan
    grams = [[Counter(_ngrams(words, n)) for words in texts] for n in range(1, BLEU_NGRAMS + 1)]
    best = [_two_most(of_n) for of_n in grams]
    lengths = [len(words) for words in texts]
    return math.fsum(_bleu(t, grams, best, lengths) for t in range(len(texts))) / len(texts)


def _two_most(of_n: Sequence[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Of each n-gram the text that has it most often, how often that is, and the most of any other text: what clips a
    count against all other texts, without comparing each with each."""
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for t, counts in enumerate(of_n):
        for gram, count in counts.items():
            who, first, second = most.get(gram, (-1, 0, 0))
            most[gram] = (t, count, first) if count > first else (who, first, max(second, count))
    return most


def _bleu(
    t: int,
    grams: Sequence[Sequence[Counter[tuple[str, ...]]]],
    best: Sequence[dict[tuple[str, ...], tuple[int, int, int]]],
    lengths: Sequence[int],
) -> float:
    logs = 0.0
    for n, (of_n, most) in enumerate(zip(grams, best, strict=True)):
        found = total = 0
        for gram, count in of_n[t].items():
            who, first, second = most[gram]
            found += min(count, second if who == t else first)
            total += count
        smooth = int(n > 0)
        if not found + smooth:
            return 0.0
        logs += math.log((found + smooth) / (total + smooth)) / BLEU_NGRAMS
    nearest = min((abs(length - lengths[t]), length) for other, length in enumerate(lengths) if other != t)[1]
    return math.exp(logs) * min(1.0, math.exp(1 - nearest / lengths[t]))
