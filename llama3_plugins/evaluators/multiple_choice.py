"""Multiple choice by likelihood: of several continuations of a context, which one does the model find likeliest?

    evaluation: {tasks: [{name: multiple_choice, path: questions.jsonl}]}

A file has one JSON object per line: `{"context": ..., "choices": [...], "answer": 0}`, the answer by its place. Without
a file the items are made of the held-out documents: the true continuation of a piece of text against pieces of the same
document that follow something else.

A model scores plain text, no chat format, so that base models can be measured. Of each choice the negative
log-likelihood is divided by its characters, which makes choices of different length, and models of different
tokenizers, comparable (paper 3.2.1). Scaling laws forecast such a suite (llama3.scaling.forecast): both of its figures,
what the correct answer costs per character and how often it is the cheapest, are what the two steps need.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama3.errors import DataError, Problem
from llama3.evaluators import Batch, Llama, Result, Segment, Subject, Tree, chunks, score, texts, wilson
from llama3_plugins.evaluators.options import MultipleChoiceOptions
from llama3_plugins.evaluators.read_items import read_items

NO_TEXT = DataError.declare(
    "L3-SCL-020",
    "no held-out document is long enough to make an item of",
    why="an item needs {needed} characters of one document",
    fix="shorten context or answer, raise data.held_out, or give a file of items",
)
NO_ROOM = DataError.declare(
    "L3-SCL-021",
    "choice {number} has {tokens} tokens, the model's context holds {limit} with one before it",
    fix="shorten the choices, or measure a model of a longer context",
)

BATCH = 16
"""Items scored at once."""
TRIES = 20
"""Pieces of text drawn per item at most, where some have no distractors."""


@dataclass(frozen=True, slots=True)
class Item:
    """A context, what may follow it, and the place of what does."""

    context: str
    choices: tuple[str, ...]
    answer: int

    @property
    def id(self) -> str:
        """By its content."""
        return hashlib.sha256("\0".join([self.context, *self.choices]).encode("utf-8", "replace")).hexdigest()[:16]


class MultipleChoice:
    """Result: `accuracy` with its interval, `nll_per_character` of the correct answers in nats, `chance`, the accuracy
    of guessing, and `items`. One sample per item, whose score is 1 where the correct choice costs least."""

    def __init__(self, options: MultipleChoiceOptions) -> None:
        self.options = options
        self.items = [Item(*row) for row in read_items(Path(options.path))] if options.path else None

    def run(self, subject: Subject, limit: int, seed: int) -> Result:
        limit = self.options.limit or limit
        items = self.items[:limit] if self.items else self._made(subject, limit, seed)
        costs = list(_costs(subject.model, items))
        right = [
            min(range(len(row)), key=row.__getitem__) == item.answer for item, row in zip(items, costs, strict=True)
        ]
        samples: list[dict[str, Any]] = [
            {"id": item.id, "context": item.context, "reference": item.choices[item.answer],
             "answer": item.choices[row.index(min(row))], "score": float(hit), "nll_per_character": row[item.answer]}
            for item, row, hit in zip(items, costs, right, strict=True)
        ]  # fmt: skip
        metrics = {
            "accuracy": wilson(sum(right), len(items)).to_json(),
            "nll_per_character": statistics.fmean(row["nll_per_character"] for row in samples),
            "chance": statistics.fmean(1 / len(item.choices) for item in items),
            "items": len(items),
        }
        return Result(metrics, samples)

    def _made(self, subject: Subject, limit: int, seed: int) -> list[Item]:
        """Items of the held-out documents, each once, the documents taking turns."""
        context, length, choices = self.options.context, self.options.answer, self.options.choices
        # Half of the text may go to the answer's own surroundings: enough is left to draw distractors from.
        needed = context + length * 2 * choices
        documents = [text for data in texts(subject.corpus, "held_out") if len(text := data.decode()) >= needed]
        if not documents:
            raise NO_TEXT("multiple_choice", needed=needed)
        rng, found = random.Random(seed), dict[str, Item]()
        for turn in range(TRIES * limit):
            item = _cut(documents[turn % len(documents)], self.options, rng)
            if item is not None:
                found.setdefault(item.id, item)
            if len(found) == limit:
                break
        if not found:
            raise NO_TEXT("multiple_choice", needed=needed)
        return list(found.values())


def _cut(text: str, options: MultipleChoiceOptions, rng: random.Random) -> Item | None:
    """An item of a document; None where too little of it differs."""
    context, length = options.context, options.answer
    start = rng.randrange(len(text) - context - length + 1)
    split, end = start + context, start + context + length
    true = text[split:end]
    elsewhere = [at for at in range(0, len(text) - length + 1, length) if at + length <= start or at >= end]
    pieces = {text[at : at + length] for at in elsewhere} - {true}
    pieces = {piece for piece in pieces if piece.strip()}
    if not true.strip() or len(pieces) < options.choices - 1:
        return None
    choices = [true, *rng.sample(sorted(pieces), options.choices - 1)]
    rng.shuffle(choices)
    return Item(text[start:split], tuple(choices), choices.index(true))


def _costs(model: Llama, items: Sequence[Item]) -> Iterator[list[float]]:
    """Of each item what its choices cost: negative log-likelihood per character, in nats."""
    tokenizer, limit = model.tokenizer, model.config.max_seq_len
    problems: list[Problem] = []
    trees = []
    for number, item in enumerate(items, 1):
        choices = [tokenizer.encode(choice) for choice in item.choices]
        longest = max(map(len, choices))
        if longest >= limit:
            problems.append(NO_ROOM.problem(f"item {number}", number=number, tokens=longest, limit=limit))
            continue
        context = _context(tokenizer.encode(item.context, bos=True), limit - longest)
        trees.append(Tree([Segment(context), *(Segment(ids, parent=0, is_target=_all(ids)) for ids in choices)]))
    if problems:
        raise DataError.of(problems)
    nats: list[float] = []
    with torch.no_grad():
        for part in chunks(trees, BATCH):
            batch = Batch.of_trees(part)
            logps_M = score(model.transformer, batch, {"logps"}).logps_M.double()
            nats += (-batch.sum_by_segment(logps_M)).tolist()
    place = 0
    for item in items:
        own = nats[place + 1 : place + 1 + len(item.choices)]
        place += 1 + len(item.choices)
        yield [cost / len(choice) for cost, choice in zip(own, item.choices, strict=True)]


def _all(ids: np.ndarray) -> np.ndarray:
    return np.ones(len(ids), bool)


def _context(ids: np.ndarray, room: int) -> np.ndarray:
    """The end of a context, as much as there is room for; its first token (BOS) stays."""
    return ids if len(ids) <= room else np.concatenate([ids[:1], ids[len(ids) - room + 1 :]])
