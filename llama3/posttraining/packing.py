"""Prompts and their answers as packed trees (llama3.model.batch).

[prompt] <- [answer], [answer] ...    the prompt is computed once
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llama3.model.batch import Batch, Segment, Tree
from llama3.posttraining.examples import AnswerTokens


def pack_answers(
    rows: Sequence[tuple[np.ndarray, Sequence[AnswerTokens]]], per_tree: Mapping[str, Sequence[float]] | None = None
) -> Batch:
    """One tree per prompt, with its answers in order; targets are the answers' own (`is_target`).

    Columns: per_target["is_format"], and those of `per_tree`, which have a value per row.
    """
    columns = per_tree or {}
    return Batch.of_trees(
        [
            Tree([Segment(prompt), *map(_answer, answers)], {name: column[i] for name, column in columns.items()})
            for i, (prompt, answers) in enumerate(rows)
        ]
    )


def pack_rankings(
    rows: Sequence[tuple[np.ndarray, Sequence[AnswerTokens]]], per_tree: Mapping[str, Sequence[float]] | None = None
) -> Batch:
    """One tree per prompt with all its answers, best first. Only the last token of an answer is a target: where a score
    head reads the answer, and all that the output matrix need see.

    Columns: per_segment["place"] (0 is best), and those of `per_tree`, which have a value per row.
    """
    columns = per_tree or {}
    return Batch.of_trees(
        [
            Tree(
                [Segment(prompt), *(_whole(i, answer) for i, answer in enumerate(answers))],
                {name: column[row] for name, column in columns.items()},
            )
            for row, (prompt, answers) in enumerate(rows)
        ]
    )


def _answer(span: AnswerTokens) -> Segment:
    is_target = np.broadcast_to(span.is_target, len(span.ids))
    return Segment(span.ids, parent=0, is_target=is_target, per_target={"is_format": span.is_format[is_target]})


def _whole(place: int, span: AnswerTokens) -> Segment:
    is_last = np.arange(len(span.ids)) == len(span.ids) - 1
    return Segment(span.ids, parent=0, is_target=is_last, per_segment={"place": place})
