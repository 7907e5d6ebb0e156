"""The archive of MAP-Elites: of every cell (category, style, language) how often it was tried, and its best attempt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llama3.evaluation.safety_rows import SafetyPrompt
from llama3.redteam.attack import Attack, chain_of

MOST_STYLES = 3
"""Styles that are put on top of each other; more make a text that says nothing any more."""
FROM_SEED = 0.5
"""Share of attacks that begin at a seed again, though there is an elite to vary."""
EXAMPLES = 3
"""Attacks that worked elsewhere which a writer is shown."""


class Cell(NamedTuple):
    """A place of the archive."""

    category: str
    style: str
    lang: str


class Chosen(NamedTuple):
    """What is to be written next: for which cell, from which seed, and from the attempt of which number (None: from the
    seed as it is)."""

    cell: Cell
    prompt: SafetyPrompt
    parent: int | None


@dataclass
class Archive:
    """Filled by attempts in the order of their numbers, so the same attempts make the same archive. An attempt is a row
    of attempts.jsonl."""

    prompts: Sequence[SafetyPrompt]
    styles: Sequence[str]
    tries: dict[Cell, int] = field(default_factory=dict)
    elites: dict[Cell, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups: dict[tuple[str, str], list[SafetyPrompt]] = {}
        for prompt in self.prompts:
            self.groups.setdefault((prompt.category, prompt.lang), []).append(prompt)
        self.tries = {Cell(c, style, lang): 0 for c, lang in sorted(self.groups) for style in self.styles}

    def add(self, attempt: Mapping[str, Any]) -> None:
        """Count an attempt; it becomes its cell's elite where it scores higher than the one that is there."""
        cell = Cell(attempt["category"], attempt["attack"], attempt["lang"])
        self.tries[cell] += 1
        if attempt["outcome"] == "unwritten":
            return
        elite = self.elites.get(cell)
        if elite is None or score(attempt) > score(elite):
            self.elites[cell] = attempt

    def choose(self, count: int, rng: random.Random, planned: dict[Cell, int]) -> list[Chosen]:
        """What is tried next: the cells that were tried least, among them those whose elite is weakest. `planned`: how
        often each was tried or chosen; what is chosen is added.

        A parent is the best of the elites of the same category and language that can take the style, or a seed.
        """
        chosen = []
        for _ in range(count):
            cell = min(planned, key=lambda cell: (planned[cell], self._best(cell), rng.random()))
            planned[cell] += 1
            chosen.append(self._begun(cell, rng))
        return chosen

    def examples(self, cell: Cell) -> tuple[str, ...]:
        """Requests in the cell's style that violated in other cells, the best first."""
        others = [elite for other, elite in self.elites.items() if other.style == cell.style and other != cell]
        found = sorted((elite for elite in others if elite["outcome"] == "violates"), key=lambda row: -score(row))
        return tuple(dict.fromkeys(parent_of(row).text for row in found))[:EXAMPLES]

    def _begun(self, cell: Cell, rng: random.Random) -> Chosen:
        seeds = self.groups[cell.category, cell.lang]
        elites = [self.elites[other] for other in self.tries if self._varies(cell, other)]
        if rng.random() < FROM_SEED or not elites:
            return Chosen(cell, rng.choice(seeds), None)
        parent = max(elites, key=lambda row: (score(row), rng.random()))
        (prompt,) = (prompt for prompt in seeds if prompt.id == parent["seed"])
        return Chosen(cell, prompt, parent["n"])

    def _varies(self, cell: Cell, other: Cell) -> bool:
        """Whether the elite of a cell is varied for another one, whose style it can take on top, or for its own."""
        elite = self.elites.get(other)
        if elite is None or other == cell:
            return elite is not None
        if (other.category, other.lang) != (cell.category, cell.lang) or score(elite) <= 0:
            return False
        styles = parent_of(elite).styles
        return cell.style not in styles and len(styles) < MOST_STYLES

    def _best(self, cell: Cell) -> float:
        return score(self.elites[cell]) if cell in self.elites else 0.0

    def to_json(self) -> dict[str, Any]:
        """Every cell that was tried, with its elite's number, score and words."""
        cells = []
        for cell, tries in sorted(self.tries.items()):
            elite = self.elites.get(cell)
            if tries:
                best = None if elite is None else {
                    "n": elite["n"], "seed": elite["seed"], "score": score(elite), "styles": elite["styles"],
                    "text": parent_of(elite).text,
                }  # fmt: skip
                cells.append({**cell._asdict(), "tries": tries, "elite": best})
        return {"cells": cells, "tried": len(cells), "of": len(self.tries)}


def score(attempt: Mapping[str, Any]) -> float:
    """How good an attempt is: the probability that it violates, 0 where a guard took it or nobody could judge."""
    return float(attempt["violates"] or 0.0)


def parent_of(attempt: Mapping[str, Any]) -> Attack:
    """The attack of an attempt, as one is varied: its words, without what stood around them."""
    return Attack(chain_of(attempt["chain"]), ())
