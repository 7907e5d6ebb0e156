"""Taking benchmarks out of a corpus: documents that cover an example go, or lose the words that do (paper 5.1.4).

A document covers an example where the threshold's share of the example's words lies in n-grams of words that the
document has too. That is decided for every document alone, so the result depends on no order and no number of shards.
Words are compared without case and punctuation, in one Unicode form; in scripts without spaces every character is one.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.artifacts.files import canonical_json
from llama3.data.covering import NGRAM, ExampleNgrams
from llama3.data.documents import DocumentBatch, Reject, text_buffers
from llama3.data.ledger import RejectLog
from llama3.data.masking import Cutter
from llama3.errors import ConfigError, Problem

if TYPE_CHECKING:
    from llama3.config.curation import BenchmarkSection, DecontaminationSection

UNREADABLE = ConfigError.declare("L3-DAT-120", "benchmark {name!r} cannot be read as JSON lines", why="{error}")
NO_TEXT = ConfigError.declare("L3-DAT-121", "row {number} of benchmark {name!r} has no text", why="{error}")
ALL_SHORT = ConfigError.declare(
    "L3-DAT-122",
    "none of the {count} examples has {ngram} words",
    fix="name more of a row's keys, or look for shorter n-grams",
)

Action = Literal["drop", "mask"]
HELD_OUT_TASKS = "held_out_tasks"
"""What the tasks are called that a run measures its models on."""
MOST_SAMPLES = 3
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"(?:[^\W_{_NO_SPACES}]|[\u0300-\u036f])+|[{_NO_SPACES}]")
_ASCII_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True)
class CoveredExample:
    """An example that a text covers: which one of which benchmark, and the share of its words."""

    benchmark: str
    number: int
    share: float


class Decontaminator:
    """Finds the examples of benchmarks in texts.

    >>> finder = Decontaminator({"sums": ["What is the sum of two and three and four?"]})
    >>> text = "Quiz. What is the sum of two, and three, and four? It is nine."
    >>> finder.find(text)
    [CoveredExample(benchmark='sums', number=0, share=1.0)]
    >>> finder.masked(text)
    'Quiz. \\n? It is nine.'
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Iterable[str]],
        *,
        ngram: int = NGRAM,
        threshold: float = 0.8,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        """`benchmarks` are the texts of their examples by name; `thresholds` those of some benchmarks."""
        named = [(name, number, text) for name, texts in benchmarks.items() for number, text in enumerate(texts)]
        self.names = [(name, number) for name, number, _ in named]
        words = [_words(text) for _, _, text in named]
        self._number = {word: n for n, word in enumerate(dict.fromkeys(w for some in words for w in some), 1)}
        self.examples = ExampleNgrams([self._ids(some) for some in words], ngram)
        each = thresholds or {}
        self._threshold_E = np.array([each.get(name, threshold) for name, _ in self.names])

    def find(self, text: str) -> list[CoveredExample]:
        """The examples that a text covers to their threshold."""
        return self.covered_by(self.ngrams_in(text))

    def ngrams_in(self, text: str) -> np.ndarray:
        """The numbers (in `examples`) of the n-grams of a text that an example has."""
        return self.examples.find(self._ids(_words(text)))[1]

    def covered_by(self, ngrams: np.ndarray) -> list[CoveredExample]:
        """The examples that these n-grams of one text cover to their threshold."""
        return [CoveredExample(*self.names[e], share) for e, share in self._covered(ngrams).items()]

    def coverage(self, texts: Iterable[str]) -> dict[str, list[float]]:
        """The share of each example's words that all the texts together cover, by benchmark: what a benchmark's scores
        are worth after training on them (llama3.evaluation.gain)."""
        found_G = self.examples.found_in(self._ids(_words(text)) for text in texts)
        shares: dict[str, list[float]] = {name: [] for name, _ in self.names}
        for (name, _), share in zip(self.names, self.examples.coverage(found_G).tolist(), strict=True):
            shares[name].append(share)
        return shares

    def masked(self, text: str) -> str:
        """The text without the words that lie in an n-gram of an example that it covers, an end of line in the place of
        every run of them: so that it covers none any more."""
        found = list(_WORD.finditer(text))
        cutter = Cutter(self.examples, self._threshold_E, self._ids([_same(word[0]) for word in found]))
        cuts = sorted(((found[first].start(), found[last].end()) for first, last in cutter.cuts()), key=_outer_first)
        pieces: list[str] = []
        end = 0
        for begin, stop in cuts:
            if stop > end:  # else it lies in the one before
                pieces.append(text[end:begin])
                end = stop
        return "\n".join([*pieces, text[end:]])

    def threshold_of(self, example: int) -> float:
        """From which coverage on a text counts as covering this example (a place in `names`)."""
        return float(self._threshold_E[example])

    def too_short(self, benchmark: str) -> int:
        """How many examples of a benchmark have fewer words than an n-gram, so that nothing finds them."""
        short_E = self.examples.too_short_E.tolist()
        return sum(short for (name, _), short in zip(self.names, short_E, strict=True) if name == benchmark)

    def _covered(self, grams: np.ndarray) -> dict[int, float]:
        return self.examples.covered_by(grams, self._threshold_E)

    def _ids(self, words: list[str]) -> np.ndarray:
        """A number for every word of the examples, 0 for others."""
        return np.array(list(map(self._number.get, words, repeat(0))), np.int64)


def _words(text: str) -> list[str]:
    if text.isascii():  # the same words, several times faster
        return _ASCII_WORD.findall(text.lower())
    return [_same(word) for word in _WORD.findall(text)]


def _same(word: str) -> str:
    """One spelling of all that count as the same word."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _outer_first(cut: tuple[int, int]) -> tuple[int, int]:
    return cut[0], -cut[1]


# -- the step of a curation ------------------------------------------------------------------------


class Cleaning:
    """Takes the benchmarks of a config out of the batches of a corpus, and keeps the books of it."""

    def __init__(self, section: DecontaminationSection, tasks: Sequence[str] = ()) -> None:
        """`tasks` are the texts of one more benchmark, HELD_OUT_TASKS. Raises ConfigError (L3-DAT-120 to 122) naming
        every benchmark that cannot be used."""
        self.action: Action = section.action
        examples = read_benchmarks(section.benchmarks) | ({HELD_OUT_TASKS: list(tasks)} if tasks else {})
        own = {name: one.threshold for name, one in section.benchmarks.items() if one.threshold is not None}
        self.finder = Decontaminator(examples, ngram=section.ngram, threshold=section.threshold, thresholds=own)
        if section.benchmarks and self.finder.examples.too_short_E.all():
            raise ALL_SHORT("data.decontaminate", count=len(self.finder.examples), ngram=section.ngram)
        self._sizes = {name: len(texts) for name, texts in examples.items()}
        self._open_books()

    def _open_books(self) -> None:
        self._left_G = self.finder.examples.found_in([])
        self._found: dict[str, set[int]] = {name: set() for name in self._sizes}
        self._rows: dict[str, dict[str, Any]] = {
            name: {
                "examples": size,
                "too_short": self.finder.too_short(name),
                "documents": 0,
                "action": self.action,
                "samples": [],
            }
            for name, size in self._sizes.items()
        }

    def with_new_books(self) -> Cleaning:
        """The same, with nothing found yet."""
        other = copy(self)
        other._open_books()
        return other

    def books(self) -> dict[str, Any]:
        """What was found so far, as JSON, for `join`."""
        rows = {
            name: {"documents": row["documents"], "samples": row["samples"], "found": sorted(self._found[name])}
            for name, row in self._rows.items()
        }
        return {"rows": rows, "left": np.flatnonzero(self._left_G).tolist()}

    def join(self, books: Mapping[str, Any]) -> None:
        """Takes up what was found in documents that come later."""
        self._left_G[books["left"]] = True
        for name, row in books["rows"].items():
            self._found[name].update(row["found"])
            self._rows[name]["documents"] += row["documents"]
            samples = self._rows[name]["samples"]
            samples += row["samples"][: MOST_SAMPLES - len(samples)]

    @property
    def active(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._rows)

    def report(self) -> dict[str, dict[str, Any]]:
        """By benchmark: its `examples`, those `too_short` to be found, those `found` in a document, the `documents`
        that held one and what was done with them (`action`), some `samples`, and the examples that the `left` text
        still covers with several documents together, none of which does alone."""
        shares = self.finder.examples.coverage(self._left_G).tolist()
        left = [share >= self.finder.threshold_of(example) for example, share in enumerate(shares)]
        rows = {}
        for name, row in self._rows.items():
            still = sum(is_left for is_left, (of, _) in zip(left, self.finder.names, strict=True) if of == name)
            rows[name] = {**row, "found": len(self._found[name]), "left": still}
        return rows

    def clean(self, batch: DocumentBatch, rejects: RejectLog) -> DocumentBatch:
        """The batch without the documents that cover an example, or without those words of them. Both are logged."""
        texts, ids, sources = batch.texts, batch.column("id"), batch.column("source")
        keep_D = np.ones(len(batch), bool)
        changed: dict[int, str] = {}
        for d, text in enumerate(texts):
            ngrams = self.finder.ngrams_in(text)
            covered = self.finder.covered_by(ngrams)
            if not covered:
                self._left_G[ngrams] = True
                continue
            most = max(covered, key=lambda example: example.share)
            left = self.finder.masked(text) if self.action == "mask" else ""
            keep_D[d] = bool(left.strip())
            changed[d] = left
            self._left_G[self.finder.ngrams_in(left)] = True
            detail = f"{'masked: ' if keep_D[d] else ''}covers example {most.number}"
            rejects.add("decontaminate", [Reject("", most.benchmark, detail, sources[d], ids[d], most.share)])
            self._count(covered, ids[d])
        if any(keep_D[d] for d in changed):
            batch = batch.with_text(*_buffers([changed.get(d, text) for d, text in enumerate(texts)]))
        return batch if keep_D.all() else batch.take(keep_D)

    def _count(self, covered: list[CoveredExample], id: str) -> None:
        for benchmark in {example.benchmark for example in covered}:
            row, here = self._rows[benchmark], [e for e in covered if e.benchmark == benchmark]
            self._found[benchmark].update(example.number for example in here)
            row["documents"] += 1
            if len(row["samples"]) < MOST_SAMPLES:
                most = max(here, key=lambda example: example.share)
                row["samples"].append({"document": id, "example": most.number, "coverage": most.share})


def _buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    return data, offsets


def benchmark_hashes(section: DecontaminationSection, tasks: Sequence[str] = ()) -> list[str]:
    """The hash of each benchmark's file, and of the texts of `tasks`, for what a corpus was made from. Raises as
    `Cleaning` does."""
    Cleaning(section, tasks)
    files = [_core.blake3_file(str(Path(one.path).expanduser())) for one in section.benchmarks.values()]
    return [*files, *([_core.blake3_bytes(canonical_json(list(tasks)))] if tasks else [])]


def read_benchmarks(sections: Mapping[str, BenchmarkSection]) -> dict[str, list[str]]:
    """The texts of the examples of every benchmark. Raises ConfigError with all problems of all of them at once."""
    problems: list[Problem] = []
    examples = {name: _examples(name, section, problems) for name, section in sections.items()}
    if problems:
        raise ConfigError.of(problems)
    return examples


def _examples(name: str, section: BenchmarkSection, problems: list[Problem]) -> list[str]:
    where, texts = f"data.decontaminate.benchmarks.{name}", list[str]()
    try:
        lines = Path(section.path).expanduser().read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        problems.append(UNREADABLE.problem(where, name=name, error=error))
        return texts
    bad: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                texts.append(_example(json.loads(line), section.keys))
            except (ValueError, RecursionError) as error:
                bad.setdefault(str(error), []).append(number)
    for told, numbers in bad.items():  # a wrong key is wrong in every row, and told once
        more = f" (and so it is with {len(numbers) - 1} more rows)" if len(numbers) > 1 else ""
        problems.append(NO_TEXT.problem(where, name=name, number=numbers[0], error=told + more))
    if not texts and not problems:
        problems.append(UNREADABLE.problem(where, name=name, error="it has no rows"))
    return texts


def _example(row: Any, keys: list[str]) -> str:
    """The strings of a row, of all its keys or of some, a line each. Raises ValueError where there are none."""
    if keys and not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object with keys")
    missing = [key for key in keys if key not in row]
    if missing:
        raise ValueError(f"it has no {', '.join(map(repr, missing))}")
    text = "\n".join(strings_of([row[key] for key in keys] if keys else row))
    if not _WORD.search(text):
        raise ValueError("there is no word in it")
    return text


def strings_of(value: Any) -> Iterator[str]:
    """All strings in a JSON value, in order, those that are keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_of(part)
