"""How much of some examples stands in a text: the share of an example's tokens that lie in an n-gram of tokens which
the text contains too (paper 5.1.4).

The examples are indexed, not the text: memory goes with the examples, and any amount of text can be read past them.

Letters: E examples, G distinct n-grams of all examples, P places where an example has one, L tokens of all examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

NGRAM = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def ngram_hashes(ids: np.ndarray, n: int) -> np.ndarray:
    """uint64 [len(ids) - n + 1], empty for fewer than n tokens: a hash of every n-gram."""
    if len(ids) < n:
        return np.empty(0, np.uint64)
    mixed = ids.astype(np.uint64) + np.uint64(1)
    key = np.zeros(len(ids) - n + 1, np.uint64)
    for offset in range(n):
        key = (key ^ mixed[offset : len(ids) - n + 1 + offset]) * _MULTIPLIER
        key ^= key >> np.uint64(29)
    return key


class ExampleNgrams:
    """The n-grams of examples, each given as token ids."""

    def __init__(self, examples: Sequence[np.ndarray], n: int = NGRAM) -> None:
        self.n = n
        self.length_E = np.array([len(ids) for ids in examples], np.int64)
        grams = [ngram_hashes(ids, n) for ids in examples]
        count_E = np.array([len(gram) for gram in grams], np.int64)
        self._example_P = np.repeat(np.arange(len(examples)), count_E)
        begin_E, first_E = np.cumsum(self.length_E) - self.length_E, np.cumsum(count_E) - count_E
        self.begin_E, self.first_E, self.count_E = begin_E, first_E, count_E
        self._token_P = np.arange(len(self._example_P)) + (begin_E - first_E)[self._example_P]
        self._hash_G, self._gram_P = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_inverse=True)
        self._places_of_G = np.split(
            np.argsort(self._gram_P, kind="stable"), np.cumsum(np.bincount(self._gram_P, minlength=1))[:-1]
        )

    def __len__(self) -> int:
        return len(self.length_E)

    @property
    def too_short_E(self) -> np.ndarray:
        """bool [E]: examples of fewer than n tokens, of which nothing can be said."""
        return self.length_E < self.n

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of a text that an example has: where each begins in it, and its number in G."""
        wanted = ngram_hashes(ids, self.n)
        if len(wanted) == 0 or len(self._hash_G) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self._hash_G, wanted), len(self._hash_G) - 1)
        starts = np.flatnonzero(self._hash_G[at] == wanted)
        return starts, at[starts]

    def found_in(self, texts: Iterable[np.ndarray]) -> np.ndarray:
        """bool [G]: which n-grams stand in one of the texts, each given as token ids; none crosses two of them."""
        found_G = np.zeros(len(self._hash_G), bool)
        for ids in texts:
            found_G[self.find(ids)[1]] = True
        return found_G

    def coverage(self, found_G: np.ndarray) -> np.ndarray:
        """float64 [E]: the share of each example's tokens that lie in a found n-gram; 0 for those too short."""
        examples, covered = self._covered(np.flatnonzero(found_G[self._gram_P]))
        share_E = np.zeros(len(self))
        share_E[examples] = covered / self.length_E[examples]
        return share_E

    def longest(self, found_G: np.ndarray) -> np.ndarray:
        """float64 [E]: the share that the longest covered run of tokens has. Singh et al. (2024) find it a better sign
        of contamination than all covered tokens together."""
        places = np.flatnonzero(found_G[self._gram_P])
        example, fresh = self._example_P[places], self._fresh(places)
        begins = np.flatnonzero(np.diff(example, prepend=-1) | (np.diff(self._token_P[places], prepend=0) > self.n))
        longest_E = np.zeros(len(self), np.int64)
        if len(places):
            np.maximum.at(longest_E, example[begins], np.add.reduceat(fresh, begins))
        return longest_E / np.maximum(self.length_E, 1)

    def own(self, found_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the n-grams that no other example has: the share of each example's that were found, float64 [E] (0 where
        it has none), and how many it has, int64 [E]."""
        pairs = np.unique(np.stack([self._gram_P, self._example_P]), axis=1)
        is_own = np.bincount(pairs[0], minlength=len(found_G))[pairs[0]] == 1
        gram, example = pairs[:, is_own]
        count_E = np.bincount(example, minlength=len(self))
        return np.bincount(example, found_G[gram], len(self)) / np.maximum(count_E, 1), count_E

    def covered_by(self, grams: np.ndarray, threshold_E: np.ndarray) -> dict[int, float]:
        """Which examples these n-grams (of one text, as `find` gives them) cover to their threshold, and how far."""
        if not len(grams):
            return {}
        places = np.sort(np.concatenate([self._places_of_G[gram] for gram in np.unique(grams)]))
        examples, covered = self._covered(places)
        shares = covered / self.length_E[examples]
        enough = shares >= threshold_E[examples]
        return dict(zip(examples[enough].tolist(), shares[enough].tolist(), strict=True))

    @property
    def distinct(self) -> int:
        """G."""
        return len(self._hash_G)

    def grams_in(self, example: int) -> np.ndarray:
        """The numbers in G of an example's n-grams, in order."""
        first = self.first_E[example]
        return self._gram_P[first : first + self.count_E[example]]

    def tokens_of(self, grams: Sequence[int]) -> np.ndarray:
        """The places in L of the tokens that lie in these n-grams, once for each place of an n-gram."""
        places = np.concatenate([np.empty(0, np.int64), *(self._places_of_G[gram] for gram in grams)])
        return (self._token_P[places][:, None] + np.arange(self.n)).ravel()

    def _covered(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples that have these places (ascending), and how many of their tokens lie in an n-gram at one."""
        examples, begins = np.unique(self._example_P[places], return_index=True)
        return examples, np.add.reduceat(self._fresh(places), begins) if len(places) else np.empty(0, np.int64)

    def _fresh(self, places: np.ndarray) -> np.ndarray:
        """Tokens from each n-gram's begin up to the next one's, n at most: no n-gram reaches into another example."""
        token = self._token_P[places]
        return np.minimum(np.diff(token, append=token[-1:] + self.n), self.n)


class ExampleCoverage:
    """Which examples some n-grams cover, where n-grams come and go: work goes with the places of those that do."""

    def __init__(self, examples: ExampleNgrams, threshold_E: np.ndarray) -> None:
        self.examples, self.threshold_E = examples, threshold_E
        self._found_G = np.zeros(examples.distinct, bool)
        self._times_L = np.zeros(int(examples.length_E.sum()), np.int32)
        self._covered_E = np.zeros(len(examples), np.int64)

    def change(self, come: Sequence[int], left: Sequence[int]) -> np.ndarray:
        """Count n-grams (numbers in G) that were not there, and no longer those that were; the examples that are
        covered now, of those that have one of them."""
        self._found_G[come], self._found_G[left] = True, False
        more_L, less_L = self.examples.tokens_of(come), self.examples.tokens_of(left)
        tokens = np.unique(np.concatenate([more_L, less_L]))
        was = self._times_L[tokens] > 0
        np.add.at(self._times_L, more_L, 1)
        np.subtract.at(self._times_L, less_L, 1)
        of = np.searchsorted(self.examples.begin_E, tokens, "right") - 1
        np.add.at(self._covered_E, of, (self._times_L[tokens] > 0).astype(np.int64) - was)
        changed = np.unique(of)
        changed = changed[self._covered_E[changed] > 0]
        shares = self._covered_E[changed] / self.examples.length_E[changed]
        return changed[shares >= self.threshold_E[changed]]

    def found_of(self, examples: np.ndarray) -> list[int]:
        """The n-grams of these examples that are there."""
        grams = np.unique(np.concatenate([self.examples.grams_in(example) for example in examples.tolist()]))
        found: list[int] = grams[self._found_G[grams]].tolist()
        return found
