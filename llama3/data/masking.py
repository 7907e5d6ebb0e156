"""Cutting what covers an example out of a text, and what covers one across the seams of the cuts, until nothing does.

Work goes with the text's length, however many cuts lie in each other: after the first look only words around seams are
looked at. A word belongs to at most n - 1 windows that a seam changes, and every seam has taken n words away.

Letters: E examples, G distinct n-grams of all examples, L tokens of all examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from llama3.data.covering import ExampleCoverage, ExampleNgrams


class Cutter:
    """The words of one text, given as token ids, of which runs are cut out. Words are counted from 1; 0 and the number
    behind the last one are the text's ends."""

    def __init__(self, examples: ExampleNgrams, threshold_E: np.ndarray, ids: np.ndarray) -> None:
        self.n, self._examples = examples.n, examples
        self._coverage = ExampleCoverage(examples, threshold_E)
        self._end = len(ids) + 1
        self._ids = [0, *ids.tolist(), 0]
        self._before = list(range(-1, self._end))
        self._after = list(range(1, self._end + 2))
        self._gram_at: dict[int, int] = {}
        self._places: dict[int, set[int]] = defaultdict(set)

    def cuts(self) -> Iterator[tuple[int, int]]:
        """(first, last) word, counted from 0, of every run that goes, in the order in which they do: a later one may
        hold earlier ones."""
        starts, grams = self._examples.find(np.array(self._ids[1:-1], np.int64))
        covered = self._count({}, dict(zip((starts + 1).tolist(), grams.tolist(), strict=True)))
        while len(covered):
            found = self._coverage.found_of(covered)
            hits = sorted(place for gram in found for place in self._places[gram])
            runs = list(self._runs(hits))
            yield from ((first - 1, self._before[stop] - 1) for first, stop in runs)
            gone = [word for first, stop in runs for word in self._words(first, stop)]
            seams = [(self._before[first], stop) for first, stop in runs]
            for left, right in seams:
                self._after[left], self._before[right] = right, left
            changed, now = self._around(seams)
            covered = self._count([*gone, *changed], now)

    def _words(self, first: int, stop: int) -> Iterator[int]:
        """The words that are left from one on, up to another."""
        while first != stop:
            yield first
            first = self._after[first]

    def _runs(self, hits: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(first, one after the last) of the runs that windows of n words make together."""
        begin = stop = 0
        for hit in hits:
            if hit > stop:
                if begin:
                    yield begin, stop
                begin = hit
            stop = hit
            for _ in range(self.n):
                stop = self._after[stop]
        if begin:
            yield begin, stop

    def _around(self, seams: Sequence[tuple[int, int]]) -> tuple[list[int], dict[int, int]]:
        """The words whose windows the seams changed, and the n-grams of examples that stand there now."""
        near: list[int] = []
        changed: list[int] = []
        for left, right in seams:
            begin, stop = left, right
            for _ in range(self.n - 1):
                if begin:
                    changed.append(begin)
                    begin = self._before[begin]
                if stop != self._end:
                    stop = self._after[stop]
            near += [*self._words(self._after[begin], stop), 0]  # word 0 is in no example: no window crosses it
        starts, grams = self._examples.find(np.array([self._ids[word] for word in near], np.int64))
        return changed, {near[start]: gram for start, gram in zip(starts.tolist(), grams.tolist(), strict=True)}

    def _count(self, lost: Iterable[int], now: dict[int, int]) -> np.ndarray:
        """Take what stood at some words out of the count, and what stands there now into it; the examples that are
        covered then. Those that were have lost all that was found of them, so what comes decides alone."""
        left: list[int] = []
        for word in lost:
            if (gram := self._gram_at.pop(word, None)) is not None:
                self._places[gram].discard(word)
                if not self._places[gram]:
                    left.append(gram)
        self._coverage.change([], left)
        come: list[int] = []
        for word, gram in now.items():
            if not self._places[gram]:
                come.append(gram)
            self._gram_at[word] = gram
            self._places[gram].add(word)
        return self._coverage.change(come, [])
