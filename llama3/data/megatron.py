"""Megatron-LM's token files: NAME.bin with the tokens, NAME.idx with where sequences and documents lie.

    NAME.bin   tokens, little-endian, one sequence after the other
    NAME.idx   "MMIDIDX" 0 0, version (u64, 1), type of the tokens (u8), sequences S (u64), documents D + 1 (u64),
               tokens of each sequence (i32 x S), their first bytes in NAME.bin (i64 x S),
               numbers of the first sequence of each document and S (i64 x (D + 1))

A document is one or more sequences. Files of several modes (images) are refused. As `megatron.core.datasets` writes
them, and datatrove.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llama3.data.token_files import NOT_SOUND, PORTION, NumberColumn, bytes_of, size_problems
from llama3.errors import DataError

LONG_DOCUMENT = DataError.declare(
    "L3-DAT-221", "a document has {tokens} tokens", why="megatron counts those of a sequence in 31 bits"
)

MAGIC = b"MMIDIDX\x00\x00"
HEAD = struct.Struct("<9sQBQQ")
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
FLOATS = {6: "float64", 7: "float32"}
NARROW = 65_500
"""Tokens of vocabularies smaller than this are written in 16 bits: Megatron's own limit."""
SOME = 4096
"""Documents whose places are read at a time."""


def stem_of(path: Path) -> Path:
    """The name that .bin and .idx share."""
    return path.with_suffix("") if path.suffix in (".bin", ".idx") else path


def with_ending(stem: Path, ending: str) -> Path:
    """A name may hold points of its own."""
    return stem.with_name(stem.name + ending)


@dataclass(frozen=True)
class MegatronFile:
    """A pair of files that was found to be sound."""

    path: Path
    index: Path
    documents: int
    tokens: int
    column: NumberColumn
    lengths: NumberColumn
    firsts: NumberColumn
    """Of each document its first sequence, and at the end the number of all."""

    @classmethod
    def open(cls, path: Path) -> MegatronFile:
        """By its .bin, its .idx, or the name without either. Reads the whole index. Raises DataError (L3-DAT-220) with
        all that is wrong."""
        stem = stem_of(path)
        data, index = with_ending(stem, ".bin"), with_ending(stem, ".idx")
        wrong = [f"{part.name} is missing" for part in (data, index) if bytes_of(part) < 0]
        if wrong:
            raise NOT_SOUND(stem, format="megatron", wrong=wrong)
        type_, sequences, firsts = _head(index)
        lengths = NumberColumn(index, np.dtype("<i4"), sequences, HEAD.size)
        pointers = NumberColumn(index, np.dtype("<i8"), sequences, HEAD.size + 4 * sequences)
        documents = NumberColumn(index, np.dtype("<i8"), firsts, HEAD.size + 12 * sequences)
        tokens, wrong = _walk(lengths, pointers, type_.itemsize)
        wrong += size_problems(data, bytes_of(data), tokens * type_.itemsize, f"{tokens:,} tokens")
        wrong += _document_problems(documents, sequences)
        if wrong:
            raise NOT_SOUND(stem, format="megatron", wrong=wrong)
        return cls(data, index, firsts - 1, tokens, NumberColumn(data, type_, tokens), lengths, documents)

    @property
    def files(self) -> list[Path]:
        return [self.path, self.index]

    def ends(self) -> Iterator[np.ndarray]:
        begun = 0
        for at in range(0, self.documents, SOME):
            firsts_D1 = self.firsts.read(at, min(at + SOME, self.documents) + 1)
            lengths_S = self.lengths.read(int(firsts_D1[0]), int(firsts_D1[-1]))
            ends_S1 = np.concatenate([[begun], begun + np.cumsum(lengths_S, dtype=np.int64)])
            yield ends_S1[firsts_D1[1:] - firsts_D1[0]]
            begun = int(ends_S1[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.column.read(start, stop).astype(np.int64)


def _head(index: Path) -> tuple[np.dtype, int, int]:
    """The type of the tokens, the number of sequences and that of the document column. Raises DataError."""
    size = bytes_of(index)
    with index.open("rb") as file:
        head = file.read(HEAD.size)
    if not head.startswith(MAGIC) or len(head) < HEAD.size:
        raise NOT_SOUND(index, format="megatron", wrong="it does not begin with the head of an index")
    _, version, code, sequences, firsts = HEAD.unpack(head)
    wrong = [] if version == 1 else [f"it is of version {version}; version 1 is known"]
    if code not in TYPES:
        wrong.append(f"its tokens are of type {code} ({FLOATS.get(code, 'unknown')}), which is no whole number")
    expected = HEAD.size + 12 * sequences + 8 * firsts
    if sequences and size == expected + sequences:
        wrong.append("it says the mode of every sequence: its sequences are not all text")
    else:
        wrong += size_problems(index, size, expected, f"{sequences:,} sequences and {firsts - 1:,} documents")
    if not firsts:
        wrong.append("it has no list of documents")
    if wrong:
        raise NOT_SOUND(index, format="megatron", wrong=wrong)
    return np.dtype(TYPES[code]), sequences, firsts


def _walk(lengths: NumberColumn, pointers: NumberColumn, width: int) -> tuple[int, list[str]]:
    """How many tokens the sequences have, and what is wrong with their lengths and places."""
    tokens = at = 0
    for lengths_S, pointers_S in zip(lengths.portions(), pointers.portions(), strict=True):
        if (negative := np.flatnonzero(lengths_S < 0)).size:
            return 0, [f"sequence {at + int(negative[0]):,} has {int(lengths_S[negative[0]])} tokens"]
        starts_S1 = tokens + np.concatenate([[0], np.cumsum(lengths_S, dtype=np.int64)])
        if (moved := np.flatnonzero(pointers_S != starts_S1[:-1] * width)).size:
            first = int(moved[0])
            where, wanted = int(pointers_S[first]), int(starts_S1[first]) * width
            return int(starts_S1[-1]), [f"sequence {at + first:,} begins at byte {where:,}, the one before ends at "
                                        f"{wanted:,}"]  # fmt: skip
        tokens, at = int(starts_S1[-1]), at + len(lengths_S)
    return tokens, []


def _document_problems(firsts: NumberColumn, sequences: int) -> list[str]:
    """What is wrong with the list of documents, in words."""
    before = 0
    for number, firsts_D in enumerate(firsts.portions()):
        if not number and firsts_D[0]:
            return [f"the first document begins at sequence {int(firsts_D[0]):,}"]
        if (np.diff(firsts_D, prepend=before) < 0).any():
            return ["documents begin before the end of the one before"]
        before = int(firsts_D[-1])
    return [] if before == sequences else [f"documents end at sequence {before:,} of {sequences:,}"]


class MegatronWriter:
    """Writes NAME.bin and NAME.idx, a sequence for each document. Holds 4 bytes per document."""

    def __init__(self, stem: Path, vocab_size: int) -> None:
        self._code = 8 if vocab_size < NARROW else 4
        self._type: np.dtype = np.dtype(TYPES[self._code])
        self._index = with_ending(stem, ".idx")
        self._data: BinaryIO = with_ending(stem, ".bin").open("xb")
        self._lengths: list[np.ndarray] = []

    def write(self, ids_T: np.ndarray, starts_D1: np.ndarray) -> None:
        """Raises DataError (L3-DAT-221) for a document that the index cannot count."""
        lengths_D = np.diff(starts_D1)
        if lengths_D.max(initial=0) >= 1 << 31:
            raise LONG_DOCUMENT(self._index, tokens=int(lengths_D.max()))
        self._data.write(ids_T.astype(self._type).tobytes())
        self._lengths.append(lengths_D.astype("<i4"))

    def close(self) -> None:
        self._data.close()
        documents = sum(map(len, self._lengths))
        with self._index.open("xb") as file:
            file.write(HEAD.pack(MAGIC, 1, self._code, documents, documents + 1))
            for lengths_D in self._lengths:
                file.write(lengths_D.tobytes())
            for pointers_D in _pointers(self._lengths, self._type.itemsize):
                file.write(pointers_D.tobytes())
            for start in range(0, documents + 1, PORTION):
                file.write(np.arange(start, min(start + PORTION, documents + 1), dtype="<i8").tobytes())


def _pointers(lengths: Sequence[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Where each sequence begins, in bytes."""
    begun = 0
    for lengths_D in lengths:
        ends_D = begun + width * np.cumsum(lengths_D, dtype=np.int64)
        yield (ends_D - width * lengths_D.astype(np.int64)).astype("<i8")
        begun = int(ends_D[-1]) if len(ends_D) else begun
