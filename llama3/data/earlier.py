"""Corpora of earlier runs: what they hold is not taken up again.

Letters: N staged documents, D those of them that are compared, B bands, F documents of earlier corpora that share a key
with one of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama3.artifacts.artifact import Artifact
from llama3.data.bands import BandParameters, BandRun
from llama3.data.corpus import BANDS, DOCUMENTS, corpus_at
from llama3.data.documents import id_bytes
from llama3.data.tables import Table
from llama3.errors import ConfigError, LlamaError, Problem

NO_RUN = ConfigError.declare(
    "L3-DAT-132",
    "holds no band keys",
    why="it was made with data.minhash.enabled: false, or by an earlier version",
    fix="curate it again, or look for exact duplicates alone: data.minhash.enabled: false",
)
OTHER_RUN = ConfigError.declare(
    "L3-DAT-133",
    "its band keys were made in another way than this config makes them",
    why="{differences}",
    fix="set data.minhash and data.by_language as they were there, or curate it again",
)


Pieces = Callable[[int], Iterable[np.ndarray]]
"""Keys of a band (uint64), in any number of pieces."""


@dataclass(frozen=True)
class Met:
    """Documents of earlier corpora that may be near duplicates of new ones: their keys, and where they are."""

    keys_FB: np.ndarray
    """Where a document shares no key of a band, one that nothing else has."""
    rows: list[np.ndarray]
    """Of each corpus, ascending; F together."""


class Earlier:
    """Opens earlier corpora, or the runs that made them; reads no text, and checks sums when it first does.
    `parameters`: what makes the band keys now; None where near duplicates are not looked for.

    Raises ConfigError with everything that is wrong with any, ArtifactError where one is damaged."""

    def __init__(self, paths: Sequence[str], parameters: BandParameters | None) -> None:
        problems: list[Problem] = []
        self.corpora: list[Artifact] = []
        self._runs: list[list[tuple[int, Path]]] = []
        """Of each corpus the runs, and the number of each one's first document."""
        for path in paths:
            try:
                corpus = Artifact(corpus_at(Path(path))).expect("corpus")
                self.corpora.append(corpus)
                self._runs.append([] if parameters is None else list(_runs(corpus, parameters)))
            except LlamaError as error:
                problems += error.problems
        if problems:
            raise ConfigError.of(problems)

    @property
    def hashes(self) -> list[str]:
        """Identity of each corpus."""
        return [corpus.hash for corpus in self.corpora]

    def known(self, wanted_D2: np.ndarray) -> np.ndarray:
        """int64 [D]: of each id (`halves`, ascending, none twice) the first corpus that has it, -1 where none has."""
        found_D = np.full(len(wanted_D2), -1, np.int64)
        for number, corpus in enumerate(self.corpora):
            for records in Table(corpus.path / DOCUMENTS).batches(columns=["id"]):
                here = places_of(halves(id_bytes(records.column("id").to_pylist())), wanted_D2)
                here = here[here >= 0]
                found_D[here[found_D[here] < 0]] = number
        return found_D

    def meet(self, bands: int, keys: Pieces) -> Met:
        """What shares a key of a band with new documents."""
        if not self.corpora:
            return Met(np.empty((0, bands), np.uint64), [])
        found: list[list[tuple[int, np.ndarray, np.ndarray]]] = [[] for _ in self.corpora]
        for band in range(bands):
            for piece in keys(band):
                wanted = np.unique(piece)
                for here, runs in zip(found, self._runs, strict=True):
                    for start, path in runs:
                        documents, shared = BandRun(path).met(band, wanted)
                        here.append((band, documents + start, shared))
        rows = [_unique(documents for _, documents, _ in here) for here in found]
        starts = np.cumsum([0, *map(len, rows)])
        # Odd multiples of an odd number: no two are alike, and hashes are not likely to be among them.
        places_FB = np.arange(1, starts[-1] * bands + 1, dtype=np.uint64).reshape(-1, bands)
        keys_FB = places_FB * np.uint64(0x9E37_79B9_7F4A_7C15)
        for start, own, here in zip(starts[:-1].tolist(), rows, found, strict=True):
            for band, documents, shared in here:
                keys_FB[start + np.searchsorted(own, documents), band] = shared
        return Met(keys_FB, rows)

    def bytes(self, met: Met, chosen: np.ndarray) -> np.ndarray:
        """int64: about how much text some of those documents have (numbers of F, ascending): the mean of their row
        groups."""
        pairs = zip(self.corpora, self._own(met, chosen), strict=True)
        sizes = [_mean_sizes(Table(corpus.path / DOCUMENTS), rows) for corpus, rows in pairs]
        return np.concatenate([np.empty(0, np.int64), *sizes])

    def texts(self, met: Met, chosen: np.ndarray) -> pa.Array:
        """The text of some of those documents, as their corpora hold it."""
        return pa.concat_arrays([pa.array([], pa.large_string()), *self._columns("text", met, chosen)])

    def names(self, met: Met, chosen: np.ndarray) -> list[str]:
        """ "id in corpus" of some of those documents, the corpus by its identity."""
        corpora = zip(self.corpora, self._columns("id", met, chosen), strict=True)
        return [f"{id} in {told(corpus.hash)}" for corpus, column in corpora for id in column.to_pylist()]

    def _columns(self, name: str, met: Met, chosen: np.ndarray) -> list[pa.Array]:
        """Of each corpus the column at those of the chosen documents that are its own."""
        pairs = zip(self.corpora, self._own(met, chosen), strict=True)
        return [Table(corpus.path / DOCUMENTS).at(name, rows) for corpus, rows in pairs]

    def _own(self, met: Met, chosen: np.ndarray) -> Iterator[np.ndarray]:
        """Of each corpus the rows of those of the chosen documents that are its own."""
        ends = np.cumsum([0, *map(len, met.rows)])
        for rows, start, end in zip(met.rows, ends[:-1], ends[1:], strict=True):
            yield rows[chosen[(chosen >= start) & (chosen < end)] - start]


def halves(ids_D16: np.ndarray) -> np.ndarray:
    """Ids (uint8 [D, 16]) as numbers that sort as they do: uint64 [D, 2], the high half first."""
    return np.ascontiguousarray(ids_D16).view(">u8").astype(np.uint64)


def places_of(ids_D2: np.ndarray, among_E2: np.ndarray) -> np.ndarray:
    """int64 [D]: where each id stands among others (ascending, none twice), -1 where it does not."""
    place_D = np.searchsorted(among_E2[:, 0], ids_D2[:, 0])
    found_D = np.full(len(ids_D2), -1, np.int64)
    open_D = np.arange(len(ids_D2))
    while len(open_D):  # once, but for different ids of one high half
        open_D = open_D[place_D[open_D] < len(among_E2)]
        open_D = open_D[among_E2[place_D[open_D], 0] == ids_D2[open_D, 0]]
        same = among_E2[place_D[open_D], 1] == ids_D2[open_D, 1]
        found_D[open_D[same]] = place_D[open_D[same]]
        open_D = open_D[~same]
        place_D[open_D] += 1
    return found_D


def told(corpus_hash: str) -> str:
    """A corpus, for people."""
    return f"corpus {corpus_hash[:12]}"


def _unique(documents: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.int64), *documents]))


def _runs(corpus: Artifact, parameters: BandParameters) -> Iterator[tuple[int, Path]]:
    """The runs of a corpus, one for each of its parts."""
    start = 0
    files = sorted((corpus.location / BANDS).glob("*.run"))
    if not files:
        raise NO_RUN(corpus.location)
    for path in files:
        run = BandRun(path)
        if differences := run.parameters.differences(parameters):
            raise OTHER_RUN(corpus.location, differences=differences)
        yield start, path
        start += run.documents


def _mean_sizes(table: Table, rows: np.ndarray) -> np.ndarray:
    """int64: of each row the mean bytes of a text in its row group."""
    groups = [file.metadata.row_group(group) for file in table.parts() for group in range(file.num_row_groups)]
    ends = np.cumsum([group.num_rows for group in groups])
    text = table.schema.get_field_index("text")
    means = [group.column(text).total_uncompressed_size // max(group.num_rows, 1) for group in groups]
    return np.array(means, np.int64)[np.searchsorted(ends, rows, "right")]
