"""Needle in a haystack: is a sentence that was hidden in a long text found again? By depth and by length (paper 5.2).

Held-out text is cut to a length; a made-up fact is hidden in it at a depth; the beginning of the fact is said again at
the end, and greedy decoding must go on with its number. With several needles the first lies at the depth, the others
evenly spaced after it, and some of them are asked for, one by one: the paper hides 4 and asks for 2. All texts of one
seed begin alike, so that the engine computes the common beginnings once.

Lines of the text that name a key of a fact are left out, so that nothing there answers the question.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from llama3.errors import DataError
from llama3.evaluators import Llama, Result, Sampling, Subject, texts, wilson
from llama3_plugins.evaluators.options import NeedleOptions
from llama3_plugins.facts import KEYS, asked, drawn_value, told

NO_ROOM = DataError.declare(
    "L3-CTX-020",
    "a context of {context} tokens has no room for the needles, the question and the answer",
    why="at lengths of {lengths} tokens; they take {needed}",
    fix="hide fewer needles, choose a shorter sentence, or give longer lengths within the context",
)
NO_HAYSTACK = DataError.declare(
    "L3-CTX-021",
    "no held-out text is there to hide anything in",
    fix="add documents to data.sources, or raise data.held_out",
)

_KEY = re.compile("|".join(KEYS))


@dataclass(frozen=True, slots=True)
class Cell:
    """One text: its length in tokens, the depth of the first needle, and what is hidden: (key, value)."""

    length: int
    depth: float
    facts: tuple[tuple[str, str], ...]


class Needle:
    """Result: `recall` over all that was asked, and `heat_map`, its mean by length and depth (null where nothing was
    asked). One sample per text, whose score is the share of what was asked that was found."""

    def __init__(self, options: NeedleOptions) -> None:
        self.options = options

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        model, options = subject.model, self.options
        lengths = self._lengths(model)
        depths = [n / max(1, options.depths - 1) for n in range(options.depths)]
        cells = list(self._cells(lengths, depths, seed))
        if len(cells) > limit:
            cells = sorted(random.Random(seed).sample(cells, limit), key=lambda cell: (cell.length, cell.depth))
        hay_T = haystack(subject, max(lengths))
        samples = [self._sample(model, cell, hay_T) for cell in cells]
        found, out_of = sum(row["found"] for row in samples), options.retrieve * len(samples)
        by_cell = {(row["length"], row["depth"]): row["score"] for row in samples}
        shares = [[by_cell.get((length, depth)) for depth in depths] for length in lengths]
        heat_map = {"lengths": lengths, "depths": depths, "shares": shares}
        return Result({"recall": wilson(found, out_of).to_json(), "heat_map": heat_map}, samples)

    def _lengths(self, model: Llama) -> list[int]:
        """Those that hold everything and that the model can read."""
        context, needed = model.config.max_seq_len, self._needed(model)
        fitting = self.options.lengths_at(context, needed)
        if not fitting:
            raise NO_ROOM("needle", context=context, lengths=self.options.lengths or f"up to {context}", needed=needed)
        return fitting

    def _needed(self, model: Llama) -> int:
        """Tokens of the longest needles, question and answer, and of BOS."""
        sentences = (len(self._hidden(model, key, "9" * self.options.digits)) for key in KEYS)
        questions = (len(self._question(model, key)) for key in KEYS)
        return 1 + self.options.needles * max(sentences) + max(questions) + self._room(model)

    def _room(self, model: Llama) -> int:
        """Tokens of the longest answer and one more, which ends its number."""
        return len(model.tokenizer.encode(" " + "9" * self.options.digits)) + 1

    def _hidden(self, model: Llama, key: str, value: str) -> np.ndarray:
        return model.tokenizer.encode(f"\n{told(self.options.sentence, key, value)}\n")

    def _question(self, model: Llama, key: str) -> np.ndarray:
        return model.tokenizer.encode(f"\n{asked(self.options.sentence, key)}")

    def _cells(self, lengths: list[int], depths: list[float], seed: int) -> Iterator[Cell]:
        for length in lengths:
            for depth in depths:
                rng = random.Random(f"{seed} {length} {depth}")
                keys = rng.sample(KEYS, self.options.needles)
                yield Cell(length, depth, tuple((key, drawn_value(rng, self.options.digits)) for key in keys))

    def _sample(self, model: Llama, cell: Cell, hay_T: np.ndarray) -> dict[str, Any]:
        chosen, room = cell.facts[: self.options.retrieve], self._room(model)
        answers: list[str] = []
        for key, _ in chosen:
            sampling = Sampling(max_tokens=room, temperature=0.0)
            ((completion,),) = model.engine.generate([self._prompt(model, cell, key, hay_T, room)], sampling)
            answers.append(model.tokenizer.decode(completion.ids))
        found = [answered(text) == value for text, (_, value) in zip(answers, chosen, strict=True)]
        return {
            "id": f"{cell.length}-{cell.depth:.4f}",
            "length": cell.length,
            "depth": cell.depth,
            "prompt": "; ".join(asked(self.options.sentence, key) for key, _ in chosen),
            "answer": "; ".join(answers),
            "reference": "; ".join(value for _, value in chosen),
            "found": sum(found),
            "score": sum(found) / len(found),
        }

    def _prompt(self, model: Llama, cell: Cell, key: str, hay_T: np.ndarray, room: int) -> np.ndarray:
        """Ids of the text with its needles and the question: as long as the cell says with the answer."""
        hidden = [self._hidden(model, *fact) for fact in cell.facts]
        begin, question = model.tokenizer.encode("", bos=True), self._question(model, key)
        hay = hay_T[: cell.length - room - len(begin) - len(question) - sum(map(len, hidden))]
        depths = [cell.depth, *((cell.depth + n / len(hidden)) % 1 for n in range(1, len(hidden)))]
        parts, last = [begin], 0
        for depth, ids in sorted(zip(depths, hidden, strict=True), key=lambda pair: pair[0]):
            at = round(depth * len(hay))
            parts += [hay[last:at], ids]
            last = at
        return np.concatenate([*parts, hay[last:], question])


def answered(text: str) -> str:
    """The number that a text begins with."""
    found = re.match(r" ?(\d+)", text)
    return found[1] if found else ""


def haystack(subject: Subject, tokens: int) -> np.ndarray:
    """So many tokens of held-out text without lines that name a key, from the beginning again where there are fewer."""
    lines = [line for text in texts(subject.corpus, "held_out", 8 * tokens) for line in text.decode().splitlines()]
    free = [line for line in lines if line.strip() and not _KEY.search(line)]
    if not free:
        raise NO_HAYSTACK("needle")
    parts: list[np.ndarray] = []
    total = 0
    for line in cycle(free):
        ids = subject.model.tokenizer.encode(f"{line}\n")
        parts.append(ids)
        total += len(ids)
        if total >= tokens:
            return np.concatenate(parts)[:tokens]
    raise AssertionError("unreachable")
