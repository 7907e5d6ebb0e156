"""Lists of words from files, counted in texts, and the words of a whole corpus, to which a text is compared.

Words are those of all rules: without case, in composed form, character by character in scripts without spaces.
Letters: D documents of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from llama3 import _core
from llama3.data.documents import DocumentBatch
from llama3.errors import ConfigError, Problem

NO_LIST = ConfigError.declare(
    "L3-DAT-260", "cannot be read as a list of words", why="{error}", fix="give a UTF-8 file with an entry a line"
)
EMPTY_LIST = ConfigError.declare(
    "L3-DAT-261", "is a list without an entry", fix="fill it, or take it out of the options"
)


class Phrases:
    """Words and phrases, counted in documents."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._core = _core.Phrases(list(phrases))

    def __len__(self) -> int:
        return len(self._core)

    def count(self, batch: DocumentBatch) -> tuple[np.ndarray, np.ndarray]:
        """How often phrases stand in each document, and how many different ones do: int64 [D] both."""
        all_D, different_D = self._core.count(*batch.buffers).T
        return all_D, different_D


class WordDistribution:
    """How often each word occurs in a corpus, by hash in 2^bits buckets of 8 bytes."""

    def __init__(self, bits: int = 20) -> None:
        self._core = _core.WordDistribution(bits)

    @property
    def words(self) -> int:
        """All that were seen."""
        return self._core.total

    def add(self, batch: DocumentBatch) -> None:
        """Counts the words of all documents."""
        self._core.add(*batch.buffers)

    def counts(self) -> np.ndarray:
        """uint64 [2^bits]: how often a word of each bucket occurred."""
        return self._core.counts()

    def add_counts(self, counts: np.ndarray) -> None:
        """Adds what was counted elsewhere, in as many buckets."""
        self._core.add_counts(counts)

    def divergence(self, batch: DocumentBatch) -> np.ndarray:
        """Bits per word by which each document's words differ from the corpus (Kullback-Leibler), float64 [D].

        The sum over its buckets, in the order in which they first occur, of p log2(p / q): p = count / words of the
        document, q = (count in the corpus + 1 / buckets) / (words of the corpus + 1). 0 for a document without
        words."""
        return self._core.divergence(*batch.buffers)


def read_lists(paths: Mapping[str, str | os.PathLike[str]]) -> tuple[dict[str, list[str]], str]:
    """The entries of every list, and a hash of them all. An entry a line; blank lines and those from `#` on are none.

    Raises ConfigError naming every list that cannot be read or is empty."""
    problems: list[Problem] = []
    lists: dict[str, list[str]] = {}
    for name, path in paths.items():
        try:
            lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(NO_LIST.problem(path, error=error))
            continue
        lists[name] = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not lists[name]:
            problems.append(EMPTY_LIST.problem(path))
    if problems:
        raise ConfigError.of(problems)
    return lists, _core.blake3_bytes(repr(lists).encode())
