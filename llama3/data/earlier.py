"""Corpora of earlier runs: what they hold is not taken up again.

Letters: N staged documents, D those of them that are compared, B bands, F documents of earlier corpora that share a key
with one of those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.artifacts.artifact import Artifact
from llama3.data.bands import BandParameters, BandRun
from llama3.data.corpus import BANDS, DOCUMENTS, batches, corpus_at, open_parquet
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


@dataclass(frozen=True)
class Met:
    """Documents of earlier corpora that may be near duplicates of new ones: their keys, and where they are."""

    keys_FB: np.ndarray
    rows: list[np.ndarray]
    """Of each corpus, ascending; F together."""


class Earlier:
    """Opens earlier corpora, or the runs that made them; reads no text, and checks sums when it first does.
    `parameters`: what makes the band keys now; None where near duplicates are not looked for.

    Raises ConfigError with everything that is wrong with any, ArtifactError where one is damaged."""

    def __init__(self, paths: Sequence[str], parameters: BandParameters | None) -> None:
        problems: list[Problem] = []
        self.corpora: list[Artifact] = []
        self.runs: list[BandRun] = []
        for path in paths:
            try:
                corpus = Artifact(corpus_at(Path(path))).expect("corpus")
                self.corpora.append(corpus)
                self.runs += [] if parameters is None else [_run(corpus, parameters)]
            except LlamaError as error:
                problems += error.problems
        if problems:
            raise ConfigError.of(problems)

    @property
    def hashes(self) -> list[str]:
        """Identity of each corpus."""
        return [corpus.hash for corpus in self.corpora]

    def known(self, ids: Iterable[str]) -> dict[str, str]:
        """Of these ids those that a corpus has, with the identity of the first that has it."""
        wanted = set(ids)
        found: dict[str, str] = {}
        for corpus in self.corpora:
            for records in batches(open_parquet(corpus.path / DOCUMENTS), columns=["id"]):
                for id in wanted.intersection(records.column("id").to_pylist()):
                    found.setdefault(id, _told(corpus))
        return found

    def meet(self, keys_DB: np.ndarray) -> Met:
        """What shares a key with one of D new documents."""
        met = [run.meet(keys_DB) for run in self.runs]
        return Met(
            np.concatenate([np.empty((0, keys_DB.shape[1]), np.uint64), *(keys for _, keys in met)]),
            [rows for rows, _ in met],
        )

    def bytes(self, met: Met) -> np.ndarray:
        """int64 [F]: about how much text each of those documents has: the mean of its row group."""
        pairs = zip(self.corpora, met.rows, strict=True)
        sizes = [_mean_sizes(open_parquet(corpus.path / DOCUMENTS), rows) for corpus, rows in pairs]
        return np.concatenate([np.empty(0, np.int64), *sizes])

    def texts(self, met: Met, chosen: np.ndarray) -> pa.Array:
        """The text of some of those documents (numbers of F, ascending), as their corpora hold it."""
        return pa.concat_arrays([pa.array([], pa.large_string()), *self._columns("text", met, chosen)])

    def names(self, met: Met, chosen: np.ndarray) -> list[str]:
        """ "id in corpus" of some of those documents, the corpus by its identity."""
        columns = self._columns("id", met, chosen)
        corpora = zip(self.corpora, columns, strict=True)
        return [f"{id} in {_told(corpus)}" for corpus, column in corpora for id in column.to_pylist()]

    def _columns(self, name: str, met: Met, chosen: np.ndarray) -> list[pa.Array]:
        """Of each corpus the column at those of the chosen documents that are its own."""
        ends = np.cumsum([0, *map(len, met.rows)])
        columns = []
        for corpus, rows, start, end in zip(self.corpora, met.rows, ends[:-1], ends[1:], strict=True):
            here = chosen[(chosen >= start) & (chosen < end)] - start
            columns.append(_at(open_parquet(corpus.path / DOCUMENTS), name, rows[here]))
        return columns


def _told(corpus: Artifact) -> str:
    return f"corpus {corpus.hash[:12]}"


def _run(corpus: Artifact, parameters: BandParameters) -> BandRun:
    if not (corpus.location / BANDS).is_file():
        raise NO_RUN(corpus.location)
    run = BandRun(corpus.location / BANDS)
    if differences := run.parameters.differences(parameters):
        raise OTHER_RUN(corpus.location, differences=differences)
    return run


def _mean_sizes(file: pq.ParquetFile, rows: np.ndarray) -> np.ndarray:
    """int64: of each row the mean bytes of a text in its row group."""
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    ends = np.cumsum([group.num_rows for group in groups])
    text = file.schema_arrow.get_field_index("text")
    means = [group.column(text).total_uncompressed_size // max(group.num_rows, 1) for group in groups]
    return np.array(means, np.int64)[np.searchsorted(ends, rows, "right")]


def _at(file: pq.ParquetFile, name: str, rows: np.ndarray) -> pa.Array:
    """A column at some rows (ascending); row groups that hold none of them are not read."""
    parts = [pa.array([], file.schema_arrow.field(name).type)]
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
        if len(here):
            column = file.read_row_group(group, columns=[name]).column(name)
            parts.append(column.take(pa.array(here)).combine_chunks())
        start = end
    return pa.concat_arrays(parts)
