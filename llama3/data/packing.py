"""Documents laid so that rows of tokens cut few of them: best-fit packing (Ding et al. 2024, "Fewer Truncations Improve
Language Modeling").

Only documents longer than a row are cut, into whole rows and a rest. Rests and documents, from the longest down, each
go into the row that has least room left for them; of rows with the same room into the one that has had it longest; else
into a new row. What room is left is filled with tokens that are documents of their own: none learns from another, nor
is learnt. So the tokens of a source, cut every `row` tokens as `TokenLoader` does, are these rows.

Letters: D documents, P pieces, R rows.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FILL_ID = 0
"""The identity of what fills a row."""


@dataclass(frozen=True)
class Packing:
    """Which piece of which document comes where, in the order in which they are laid."""

    document_P: np.ndarray
    """int64: whose piece."""
    start_P: np.ndarray
    """int64: its first token in the document."""
    length_P: np.ndarray
    """int64."""
    row_P: np.ndarray
    """int64, ascending: its row."""
    row: int
    """Tokens of a row."""

    @property
    def rows(self) -> int:
        """R."""
        return int(self.row_P[-1]) + 1 if len(self.row_P) else 0

    @property
    def room_R(self) -> np.ndarray:
        """int64: tokens of each row that no document fills."""
        filled_R = np.zeros(self.rows, np.int64)
        np.add.at(filled_R, self.row_P, self.length_P)
        return self.row - filled_R

    @property
    def cut(self) -> int:
        """Documents that lie in more than one piece."""
        return int((np.bincount(self.document_P) > 1).sum()) if len(self.document_P) else 0


def cut_by_concatenation(length_D: np.ndarray, row: int) -> int:
    """Documents that the rows of tokens cut where documents follow each other as they come."""
    ends_D = np.cumsum(length_D)
    return int(((ends_D - 1) // row > (ends_D - length_D) // row).sum())


def best_fit(length_D: np.ndarray, row: int) -> Packing:
    """The packing of documents with these lengths (1 token or more) into rows of `row` tokens: a function of these two.

    Takes time by the number of different lengths, not of documents, beyond a sort: documents of one length are placed
    together."""
    length_D = np.asarray(length_D, np.int64)
    whole_D, rest_D = length_D // row, length_D % row
    full = int(whole_D.sum())
    full_document = np.repeat(np.arange(len(length_D)), whole_D)
    full_start = row * (np.arange(full) - np.repeat(np.cumsum(whole_D) - whole_D, whole_D))
    rests = np.flatnonzero(rest_D)
    rests = rests[np.argsort(-rest_D[rests], kind="stable")]
    placed = full + _place(rest_D[rests], row)
    order = np.argsort(placed, kind="stable")  # within a row as they were placed
    rests = rests[order]
    return Packing(
        document_P=np.concatenate([full_document, rests]),
        start_P=np.concatenate([full_start, whole_D[rests] * row]),
        length_P=np.concatenate([np.full(full, row), rest_D[rests]]),
        row_P=np.concatenate([np.arange(full), placed[order]]),
        row=row,
    )


def _place(length_P: np.ndarray, row: int) -> np.ndarray:
    """The row of every piece; their lengths fall, and are below `row`."""
    row_P = np.empty(len(length_P), np.int64)
    rows_of: dict[int, np.ndarray] = {}  # by the room they have left, in the order in which they got it
    rooms: list[int] = []  # ascending
    opened = 0

    def leave(some: np.ndarray, room: int) -> None:
        if room and len(some):
            if room not in rows_of:
                insort(rooms, room)
                rows_of[room] = some
            else:
                rows_of[room] = np.concatenate([rows_of[room], some])

    starts = np.flatnonzero(np.diff(length_P, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(length_P)]):
        length = int(length_P[start])
        while start < stop:
            place = bisect_left(rooms, length)
            room = rooms[place] if place < len(rooms) else row
            each = room // length  # a row stays the best fit for pieces of this length until none fits
            needed = -(-(stop - start) // each)
            if place < len(rooms):
                here, others = rows_of[room][:needed], rows_of[room][needed:]
                if len(others):
                    rows_of[room] = others
                else:
                    del rows_of[room], rooms[place]
            else:
                here = np.arange(opened, opened + needed)
                opened += needed
            count = min(stop - start, len(here) * each)
            row_P[start : start + count] = np.repeat(here, each)[:count]
            start += count
            last = count - (len(here) - 1) * each
            leave(here[:-1], room - each * length)
            leave(here[-1:], room - last * length)
    return row_P
