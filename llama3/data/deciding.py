"""The second step of a curation, `decide -> keep`: which documents are older versions or duplicates of others, from
what lies beside the staged text; texts are read of candidates for near duplicates alone.

One process decides for all documents. It holds 6 bytes of each, 24 of one that goes, 24 of a candidate, and besides
that HELD ids or keys at a time: they are looked at range by range, however many there are.

Letters: N documents staged, D those of a portion, B bands, F documents of earlier corpora that share a band with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llama3 import _core
from llama3.data.arrays import read_arrays, write_arrays
from llama3.data.commits import Begun, Commit, committed
from llama3.data.dedup import Candidates, Deduplicator
from llama3.data.documents import Reject
from llama3.data.earlier import Earlier, halves, told
from llama3.data.staging import PORTION_BYTES, Portion
from llama3.data.tables import column_at

HELD = 8 << 20
"""Ids or keys that are looked at together: they and what is made of them take about 90 bytes each."""
MOST_PORTIONS = 64
"""Of a part, where nearly nothing of them is kept."""
KEPT, URL, EXACT, NEAR = range(4)
STEPS = ("", "url", "exact", "near")
"""By the number that says which step a document goes in."""
REASONS = ("", "same_address", "exact_duplicate", "near_duplicate")
IN_EARLIER = "in_earlier_corpus"
DECISION = "decision"


class Staged:
    """All documents that were read, numbered in the order of their portions."""

    def __init__(self, portions: list[Portion]) -> None:
        self.portions = portions
        self.starts = np.cumsum([0, *(portion.documents for portion in portions)])
        self.hash = _core.blake3_bytes(repr([portion.commit.hash for portion in portions]).encode())

    def __len__(self) -> int:
        return int(self.starts[-1])

    def by_portion(self, rows: np.ndarray) -> Iterator[tuple[Portion, np.ndarray]]:
        """Portions that have some of these documents (numbers, ascending), each with the numbers of its own in it."""
        borders = np.searchsorted(rows, self.starts)
        for portion, start, (begin, stop) in zip(
            self.portions, self.starts.tolist(), pairwise(borders.tolist()), strict=False
        ):
            if begin < stop:
                yield portion, rows[begin:stop] - start

    def texts(self, rows: np.ndarray) -> pa.Array:
        """The text of the documents with these (ascending) numbers."""
        empty = pa.array([], pa.large_string())
        found = (column_at(portion.text(), "text", own) for portion, own in self.by_portion(rows))
        return pa.concat_arrays([empty, *(text for texts in found for text in texts)])

    def column(self, name: str, rows: np.ndarray, empty: np.ndarray) -> np.ndarray:
        """A column of facts at these (ascending) numbers."""
        found = (portion.facts(name)[0][own] for portion, own in self.by_portion(rows))
        return np.concatenate([empty, *found])


@dataclass(frozen=True)
class Part:
    """Portions that are written together, and how many documents before them stay."""

    number: int
    portions: range
    kept_before: int


@dataclass(frozen=True)
class Decided:
    """What stays of a portion, and why the rest goes."""

    step_D: np.ndarray
    """uint8: KEPT, or the step in which it goes."""
    of_R: list[str]
    """Of each document that goes, in their order, what it duplicates; in an earlier corpus where `earlier_R`."""
    earlier_R: np.ndarray
    similarity_R: np.ndarray

    def rejects(self, ids: list[str], sources: list[str]) -> Iterator[tuple[str, Reject]]:
        """(step, document) of all that goes, in the order of the steps."""
        gone = np.flatnonzero(self.step_D != KEPT)
        for step in (URL, EXACT, NEAR):
            for place in np.flatnonzero(self.step_D[gone] == step).tolist():
                d = int(gone[place])
                reason = IN_EARLIER if self.earlier_R[place] else REASONS[step]
                similarity = float(self.similarity_R[place])
                yield STEPS[step], Reject("", reason, f"of {self.of_R[place]}", sources[d], ids[d], similarity)


class KeepDecision:
    """The decision on disk: parts, and for every portion what stays of it."""

    def __init__(self, folder: Path, commit: Commit) -> None:
        self.folder = folder
        self.near: dict[str, int] | None = commit["near"]
        self.steps: tuple[int, ...] = tuple(commit["steps"])
        """Those in which something was looked for."""
        self.kept: int = commit["kept"]
        self.parts = [Part(number, range(*ends), before) for number, (ends, before) in enumerate(commit["parts"])]

    def of(self, number: int) -> Decided:
        """What was decided of a portion."""
        commit = committed(self.folder, f"{number:06}")
        assert commit is not None, "made with the decision"
        found = read_arrays(commit.files[".npz"])
        return Decided(found["step_D"], commit["of"], found["earlier_R"], found["similarity_R"])


def decision_at(folder: Path) -> KeepDecision | None:
    """The decision in this folder, where it is made and nothing of it is damaged."""
    commit = committed(folder, DECISION)
    if commit is None or any(committed(folder, f"{number:06}") is None for number in range(commit["portions"])):
        return None
    return KeepDecision(folder, commit)


class Deciding:
    """The work of deciding, step by step."""

    def __init__(self, staged: Staged, near: Deduplicator | None, earlier: Earlier) -> None:
        self.staged, self.near, self.earlier = staged, near, earlier
        self.step_N = np.zeros(len(staged), np.uint8)
        self.metrics: dict[str, int] | None = None
        self.steps: list[int] = []
        self._removed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._names: list[str] = []
        """Documents of earlier corpora; the n-th is told by the number -1 - n."""

    def _remove(self, step: int, rows: np.ndarray, of: np.ndarray, similarity: np.ndarray | float) -> None:
        """`of`: the documents that stay for them, or names of earlier corpora."""
        self.step_N[rows] = step
        self._removed.append((rows, of.astype(np.int64), np.broadcast_to(np.float64(similarity), rows.shape)))

    def _ranges(self, documents: int) -> Iterator[tuple[int, int]]:
        """The numbers of 64 bits in ranges that hold HELD hashes of so many documents, about."""
        count = max(1, -(-documents // HELD))
        yield from pairwise([n * 2**64 // count for n in range(count + 1)])

    def older_versions(self) -> None:
        """Of every address the newest document stays (paper 3.1.1), of equally new ones the first."""
        for low, high in self._ranges(len(self.staged)):
            found = [np.empty((0, 3), np.uint64)]
            for start, portion in zip(self.staged.starts.tolist(), self.staged.portions, strict=False):
                page_D, date_D, _ = portion.facts("pages_D3")[0].T
                here = np.flatnonzero((page_D > 0) & _within(page_D, low, high))
                found.append(np.stack([page_D[here], date_D[here], (here + start).astype(np.uint64)], axis=1))
            page_D, date_D, row_D = np.concatenate(found).T
            order = np.lexsort((row_D, ~date_D, page_D))
            begins, first = _begins(np.diff(page_D[order], prepend=np.uint64(0)) > 0)
            row_D = row_D[order].astype(np.int64)
            if len(row_D) and URL not in self.steps:  # else nothing of it is from the web
                self.steps.append(URL)
            self._remove(URL, row_D[~begins], row_D[first[~begins]], np.nan)

    def exact_duplicates(self) -> None:
        """Of every id the first document stays, none where an earlier corpus has it."""
        self.steps.append(EXACT)
        for low, high in self._ranges(len(self.staged)):
            ids, rows = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
            for start, portion in zip(self.staged.starts.tolist(), self.staged.portions, strict=False):
                ids_D2 = halves(portion.facts("ids_D16")[0])
                kept_D = self.step_N[start : start + len(ids_D2)] == KEPT
                here = np.flatnonzero(kept_D & _within(ids_D2[:, 0], low, high))
                ids.append(ids_D2[here])
                rows.append(here + start)
            self._exact_duplicates(np.concatenate(ids), np.concatenate(rows))

    def _exact_duplicates(self, ids_D2: np.ndarray, row_D: np.ndarray) -> None:
        order = np.lexsort((row_D, ids_D2[:, 1], ids_D2[:, 0]))
        ids_D2, row_D = ids_D2[order], row_D[order]
        begins, first = _begins(np.r_[True, (ids_D2[1:] != ids_D2[:-1]).any(1)][: len(row_D)])
        corpus_D = self.earlier.known(ids_D2[begins])[np.cumsum(begins) - 1]
        in_earlier = corpus_D >= 0
        rows = row_D[in_earlier]
        names = (
            f"{id.tobytes().hex()} in {told(self.earlier.corpora[corpus].hash)}"
            for id, corpus in zip(ids_D2[in_earlier].astype(">u8"), corpus_D[in_earlier].tolist(), strict=True)
        )
        self._remove(EXACT, rows, self._named(list(names)), 1.0)
        again = ~begins & ~in_earlier
        self._remove(EXACT, row_D[again], row_D[first[again]], 1.0)

    def _named(self, names: list[str]) -> np.ndarray:
        start = len(self._names)
        self._names += names
        return -1 - np.arange(start, start + len(names))

    def near_duplicates(self) -> None:
        """Of every cluster of near duplicates the first document stays, and none that earlier corpora have."""
        assert self.near is not None
        self.steps.append(NEAR)
        bands, kept = self.near.bands, int((self.step_N == KEPT).sum())

        def pieces(band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return (self._keys(band, low, high) for low, high in self._ranges(kept))

        met = self.earlier.meet(bands, lambda band: (keys for keys, _ in pieces(band)))
        first = len(met.keys_FB)  # those of earlier corpora stand before the new ones
        ties = _core.DuplicateGroups(first + len(self.staged))
        for band in range(bands):
            for (keys, rows), (low, high) in zip(pieces(band), self._ranges(kept), strict=True):
                old = np.flatnonzero(_within(met.keys_FB[:, band], low, high))
                ties.add(np.r_[met.keys_FB[old, band], keys], np.r_[old, first + rows].astype(np.uint32))
        rows, group = ties.groups()

        def both(old: Callable[[np.ndarray], Any], new: Callable[[np.ndarray], Any], chosen: np.ndarray) -> list[Any]:
            border = int(np.searchsorted(chosen, first))
            return [old(chosen[:border]), new(chosen[border:] - first)]

        none = np.empty(0, np.int64)
        sizes = both(
            lambda old: self.earlier.bytes(met, old), lambda new: self.staged.column("bytes_D", new, none), rows
        )
        found = self.near.settle(
            Candidates(rows, group, np.concatenate(sizes)),
            lambda some: pa.concat_arrays(both(lambda old: self.earlier.texts(met, old), self.staged.texts, some)),
            lambda some: np.concatenate(both(lambda old: met.keys_FB[old], self._table, some)),
            first,
        )
        by_old = found.by < first
        old, place = np.unique(found.by[by_old], return_inverse=True)
        names = self.earlier.names(met, old)
        of = found.by - first
        of[by_old] = self._named([names[n] for n in place.tolist()])
        self._remove(NEAR, found.removed - first, of, found.similarity)
        self.metrics = {
            "bands": bands,
            "rows": self.near.rows,
            "candidates": len(rows),
            "comparisons": found.comparisons,
            "removed": len(found.removed),
            "unsupported_removals": found.unsupported_removals,
            "largest_cluster": found.largest_cluster,
            "full_buckets": found.full_buckets,
        }

    def _keys(self, band: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of a band in a range, of documents that are kept so far, and the numbers of these."""
        keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for start, portion in zip(self.staged.starts.tolist(), self.staged.portions, strict=False):
            own, documents = portion.run().between(band, low, high)
            numbers = documents.astype(np.int64) + start
            kept = self.step_N[numbers] == KEPT
            keys.append(own[kept])
            rows.append(numbers[kept])
        return np.concatenate(keys), np.concatenate(rows)

    def _table(self, rows: np.ndarray) -> np.ndarray:
        """uint64 [some, B]: the band keys of these documents (ascending)."""
        assert self.near is not None
        found = (portion.run().table()[own] for portion, own in self.staged.by_portion(rows))
        return np.concatenate([np.empty((0, self.near.bands), np.uint64), *found])

    def write(self, folder: Path) -> None:
        """Commits what was decided of every portion, then the decision."""
        nothing = np.empty(0, np.int64)
        rows, of = (np.concatenate([nothing, *(some[n] for some in self._removed)]) for n in range(2))
        similarity = np.concatenate([np.empty(0), *(some[2] for some in self._removed)])
        order = np.argsort(rows)
        rows, of, similarity = rows[order], of[order], similarity[order]
        known = np.unique(of[of >= 0])
        ids = self.staged.column("ids_D16", known, np.empty((0, 16), np.uint8))
        places = np.searchsorted(known, of)
        parts: list[tuple[tuple[int, int], int]] = []
        begun = filled = before = kept = 0
        portions = len(self.staged.portions)
        for number, (start, stop) in enumerate(pairwise(self.staged.starts.tolist())):
            step_D = self.step_N[start:stop]
            here = slice(*np.searchsorted(rows, [start, stop]))
            names = [
                ids[place].tobytes().hex() if n >= 0 else self._names[-1 - n]
                for n, place in zip(of[here].tolist(), places[here].tolist(), strict=True)
            ]
            with Begun(folder, f"{number:06}") as writing:
                arrays = {"step_D": step_D, "earlier_R": of[here] < 0, "similarity_R": similarity[here]}
                write_arrays(writing.file(".npz"), arrays)
                writing.commit({"of": names})
            kept += int((step_D == KEPT).sum())
            filled += int(self.staged.portions[number].facts("bytes_D")[0][step_D == KEPT].sum())
            if filled >= PORTION_BYTES or number + 1 - begun >= MOST_PORTIONS or number + 1 == portions:
                parts.append(((begun, number + 1), before))
                begun, filled, before = number + 1, 0, kept
        with Begun(folder, DECISION) as writing:
            facts = {"parts": parts, "kept": kept, "near": self.metrics, "portions": portions, "steps": self.steps}
            writing.commit(facts)


def _within(numbers: np.ndarray, low: int, high: int) -> np.ndarray:
    """bool: from `low` on and below `high`, of uint64."""
    above = numbers >= np.uint64(low)
    return above if high >= 2**64 else above & (numbers < np.uint64(high))


def _begins(begins_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where sorted things begin another group, and for each thing the place where its group begins."""
    return begins_D, np.maximum.accumulate(np.where(begins_D, np.arange(len(begins_D)), 0))
