"""How likely a model is to answer with each of two words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llama3.evaluation.spellings import ways_of
from llama3.inference.llama import Llama
from llama3.model.batch import Batch, Segment, Tree
from llama3.model.score import score
from llama3.tokenizer.chat import Message, render

BATCH_TOKENS = 8192
"""Tokens that are scored at once."""


def word_logps(model: Llama, prompts: Sequence[str], words: tuple[str, str]) -> list[tuple[float, float] | None]:
    """The log-probability of each of two words as the answer to each message of a user, in nats: of all ways in which
    the tokenizer begins an answer with it (as it is, with a capital, after a space). None where a prompt does not fit.
    """
    tokenizer, limit = model.tokenizer, model.config.max_seq_len
    spelt = [_distinct([tokenizer.encode(way) for way in ways_of(word)]) for word in words]
    longest = max(len(ids) for ways in spelt for ids in ways)
    asked = [render(tokenizer, [Message("user", text)], generation_prompt=True).ids for text in prompts]
    fits = [len(ids) + longest <= limit for ids in asked]
    trees = [
        Tree([Segment(ids), *(Segment(way, 0, np.ones(len(way), bool)) for ways in spelt for way in ways)])
        for ids, fit in zip(asked, fits, strict=True)
        if fit
    ]
    found = iter(_logps(model, trees, sum(map(len, spelt))))
    return [_both(next(found), len(spelt[0])) if fit else None for fit in fits]


def _distinct(ways: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each once; a way that another one begins is part of it."""
    rows = sorted({tuple(ids.tolist()) for ids in ways}, key=len)
    kept: list[tuple[int, ...]] = []
    for row in rows:
        if not any(row[: len(other)] == other for other in kept):
            kept.append(row)
    return [np.array(row) for row in kept]


@torch.no_grad()
def _logps(model: Llama, trees: Sequence[Tree], answers: int) -> list[list[float]]:
    """The log-probabilities of the answers of each tree."""
    rows: list[list[float]] = []
    group: list[Tree] = []
    for index, tree in enumerate(trees):
        group.append(tree)
        size = sum(len(segment.tokens) for part in group for segment in part.segments)
        if index + 1 == len(trees) or size > BATCH_TOKENS:
            batch = Batch.of_trees(group).to(model.transformer.embed.weight.device)
            sums = batch.sum_by_segment(score(model.transformer, batch).logps_M.double()).cpu()
            rows += sums.view(len(group), answers + 1)[:, 1:].tolist()
            group = []
    return rows


def _both(logps: Sequence[float], first: int) -> tuple[float, float]:
    return float(np.logaddexp.reduce(logps[:first])), float(np.logaddexp.reduce(logps[first:]))
