"""Shards written anew in the order of a packing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama3 import _core
from llama3.data.packing import FILL_ID, Packing, best_fit, cut_by_concatenation
from llama3.data.plan import SourceEntry

BATCH_TOKENS = 1 << 20
Write = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Takes documents as `SourceWriter.write_tokens` does."""


@dataclass(frozen=True)
class PackedSource:
    """What became of the documents of a source."""

    documents: int
    cut: int
    """Documents that lie in more than one piece: those longer than a row."""
    cut_before: int
    """Documents that would be cut in the order in which they came."""
    fill: int
    """Tokens of no document."""


class _Documents:
    """The documents of shards, numbered through."""

    def __init__(self, paths: list[Path]) -> None:
        self._shards = [_core.Shard(str(path)) for path in paths]
        self._ends = np.cumsum([shard.documents for shard in self._shards])
        self._last: tuple[int, int, np.ndarray] = (-1, 0, np.empty(0, np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> tuple[int, np.ndarray]:
        """(identity, tokens); the last one is kept, for the pieces of a long document follow each other."""
        if self._last[0] != number:
            shard = int(np.searchsorted(self._ends, number, "right"))
            before = int(self._ends[shard]) - self._shards[shard].documents
            self._last = (number, *self._shards[shard].document(number - before))
        return self._last[1:]


def write_packed(source: SourceEntry, folder: Path, row: int, fill: int, write: Write) -> PackedSource:
    """Gives `write` the documents of the shards in `folder`, packed into rows of `row` tokens; the token `fill` stands
    where a row has room left. Holds 8 bytes per document and some rows. Raises what a damaged shard raises."""
    documents = _Documents([folder / shard.path for shard in source.shards])
    length_D = np.array([len(documents[number][1]) for number in range(len(documents))], np.int64)
    packing = best_fit(length_D, row)
    for ids, starts, doc_ids in _batches(packing, documents, fill):
        write(ids, starts, doc_ids)
    room = int(packing.room_R.sum())
    return PackedSource(len(documents), packing.cut, cut_by_concatenation(length_D, row), room)


def _batches(packing: Packing, documents: _Documents, fill: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Whole rows of about BATCH_TOKENS, as `SourceWriter.write_tokens` takes them."""
    per_batch = max(1, BATCH_TOKENS // packing.row)
    room_R = packing.room_R
    for first in range(0, packing.rows, per_batch):
        ids: list[np.ndarray] = []
        doc_ids: list[int] = []
        for row in range(first, min(first + per_batch, packing.rows)):
            begin, end = np.searchsorted(packing.row_P, [row, row + 1])
            for piece in range(begin, end):
                identity, tokens = documents[int(packing.document_P[piece])]
                start = int(packing.start_P[piece])
                ids.append(tokens[start : start + int(packing.length_P[piece])])
                doc_ids.append(identity)
            room = int(room_R[row])
            ids += [np.array([fill])] * room
            doc_ids += [FILL_ID] * room
        starts = np.cumsum([0, *map(len, ids)])
        yield np.concatenate(ids).astype(np.uint32), starts.astype(np.uint64), np.array(doc_ids, np.uint64)
