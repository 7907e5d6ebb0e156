"""The better and the worse answers of a user's rows, two by two: what a preference can be measured on.

Of a pair or a ranking these are its best and its worst answer. Labels come without a partner: each good answer meets
one bad answer, in the order of the file. Each answer stands in one pair, so that the pairs are as independent as rows
are, and the share of pairs in which the good one scores higher estimates the area under the ROC curve (Hanley &
McNeil 1982).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama3.tasks.user_data import Line


@dataclass(frozen=True, slots=True)
class Asked:
    """A row and one answer to its prompt."""

    line: Line
    answer: str


def answer_pairs(lines: Sequence[Line]) -> list[tuple[Asked, Asked]]:
    """(better, worse) of rows of one kind; none where the kind does not say which answers are better."""
    ranked = [line for line in lines if len(line.row.answers) > 1]
    good, bad = ([line for line in lines if line.row.columns.get("label") is label] for label in (True, False))
    return [
        (Asked(better, better.row.answers[0]), Asked(worse, worse.row.answers[-1]))
        for better, worse in [*zip(ranked, ranked, strict=True), *zip(good, bad, strict=False)]
    ]
