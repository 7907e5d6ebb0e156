"""datatrove's token files: NAME.ds and what lies beside it.

    NAME.ds            tokens, little-endian, u16 or u32
    NAME.ds.index      where each document ends, in tokens (u64)
    NAME.ds.loss       a byte per token: 0 is not learnt
    NAME.ds.metadata   "<tokenizer>|<bytes per token>", the number of tokens, and that number for people

Only the first must be there. Without an index documents end at the tokenizer's EOS; without metadata the width of a
token follows from the index, or else from the vocabulary, as datatrove chooses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llama3.data.token_files import NOT_SOUND, NumberColumn, bytes_of, size_problems
from llama3.errors import DataError

NO_INDEX = DataError.declare(
    "L3-DAT-222",
    "nothing says where its documents end",
    why="{name} is missing",
    fix="give the tokenizer that made the tokens: then they end at its EOS",
)
MASKED = DataError.declare(
    "L3-DAT-223",
    "{count} of its {tokens} tokens are not to be learnt",
    why="a .tok shard has no mask: they would be",
    fix="to learn all of them, move {name} away",
)

ENDING = ".ds"
WIDTHS: dict[int, np.dtype] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def beside(path: Path, ending: str) -> Path:
    """NAME.ds.`ending`."""
    return path.with_name(f"{path.name}.{ending}")


def width_for(vocab_size: int) -> int:
    """Bytes per token that datatrove writes."""
    return 4 if vocab_size > 1 << 16 else 2


@dataclass(frozen=True)
class DatatroveFile:
    """A file of tokens and its companions, found to be sound."""

    path: Path
    documents: int
    tokens: int
    column: NumberColumn
    index: NumberColumn | None
    eos: int | None
    """Where documents end, if there is no index."""
    tokenizer: str
    """What the metadata call the tokenizer; "" where there are none."""

    @classmethod
    def open(cls, path: Path, vocab_size: int = 0, eos: int | None = None) -> DatatroveFile:
        """vocab_size, eos: of the tokenizer, where one is known. Reads index and mask.

        Raises DataError: L3-DAT-220 with all that is wrong, L3-DAT-222 where nothing says where documents end,
        L3-DAT-223 where a mask leaves out tokens.
        """
        if bytes_of(path) < 0:
            raise NOT_SOUND(path, format="datatrove", wrong=f"{path.name} is missing")
        ends, last, wrong = _index(beside(path, "index"))
        tokenizer, told_width, told_tokens, faults = _metadata(beside(path, "metadata"))
        wrong += faults
        width = told_width or _width(bytes_of(path), last) or (width_for(vocab_size) if vocab_size else 0)
        if ends is None and (not width or eos is None):
            raise NO_INDEX(path, name=beside(path, "index").name)
        tokens = bytes_of(path) // width if width else 0
        if ends is not None:
            wrong += size_problems(path, bytes_of(path), last * (width or 2), f"{last:,} tokens of its index")
        elif bytes_of(path) % width:
            wrong.append(f"{path.name} has {bytes_of(path):,} bytes, no whole number of tokens of {width} bytes")
        if told_tokens is not None and told_tokens != tokens:
            wrong.append(f"{beside(path, 'metadata').name} tells of {told_tokens:,} tokens, there are {tokens:,}")
        mask = beside(path, "loss")
        if bytes_of(mask) >= 0:
            wrong += size_problems(mask, bytes_of(mask), tokens, f"{tokens:,} tokens")
        if wrong:
            raise NOT_SOUND(path, format="datatrove", wrong=wrong)
        _require_all_learnt(path, mask, tokens)
        column = NumberColumn(path, WIDTHS[width or 2], tokens)
        documents = ends.count if ends is not None else _count(column, eos)
        return cls(path, documents, tokens, column, ends, eos, tokenizer)

    @property
    def files(self) -> list[Path]:
        companions = (beside(self.path, ending) for ending in ("index", "loss", "metadata"))
        return [self.path, *(path for path in companions if path.is_file())]

    def ends(self) -> Iterator[np.ndarray]:
        if self.index is None:
            assert self.eos is not None
            return _ends_at(self.column, self.eos)
        return (ends_D.astype(np.int64) for ends_D in self.index.portions())

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.column.read(start, stop).astype(np.int64)


def _index(path: Path) -> tuple[NumberColumn | None, int, list[str]]:
    """The ends of documents, the last of them, and what is wrong with them."""
    size = bytes_of(path)
    if size < 0:
        return None, 0, []
    column = NumberColumn(path, np.dtype("<u8"), size // 8)
    if size % 8:
        return column, 0, [f"{path.name} has {size:,} bytes, no whole number of ends of 8 bytes"]
    last, at = 0, 0
    for ends_D in column.portions():
        before_D = np.concatenate([np.array([last], np.uint64), ends_D[:-1]])
        if (falling := np.flatnonzero(ends_D < before_D)).size:
            return column, 0, [f"{path.name}: document {at + int(falling[0]):,} ends before it begins"]
        last, at = int(ends_D[-1]), at + len(ends_D)
    return column, last, []


def _metadata(path: Path) -> tuple[str, int, int | None, list[str]]:
    """The tokenizer's name, bytes per token (0: not told), tokens, and what is wrong with them."""
    if bytes_of(path) < 0:
        return "", 0, None, []
    with path.open("rb") as file:
        lines = file.read(1 << 16).decode("utf-8", "replace").splitlines()
    name, _, width = lines[0].rpartition("|") if lines else ("", "", "")
    count = lines[1].strip() if len(lines) > 1 else ""
    wrong = []
    if width not in ("2", "4"):
        wrong.append(f"{path.name} does not say whether a token has 2 or 4 bytes")
    if not (count.isascii() and count.isdecimal()):
        wrong.append(f"{path.name} does not say how many tokens there are")
    return name, 0 if wrong else int(width), None if wrong else int(count), wrong


def _width(size: int, tokens: int) -> int:
    """Bytes per token, as the last end of the index says."""
    return next((width for width in WIDTHS if tokens and size == width * tokens), 0)


def _require_all_learnt(path: Path, mask: Path, tokens: int) -> None:
    if bytes_of(mask) < 0:
        return
    column = NumberColumn(mask, np.dtype("u1"), tokens)
    left_out = sum(int((some_T == 0).sum()) for some_T in column.portions())
    if left_out:
        raise MASKED(path, count=f"{left_out:,}", tokens=f"{tokens:,}", name=mask.name)


def _ends_at(column: NumberColumn, eos: int) -> Iterator[np.ndarray]:
    """After every EOS, and at the end of the file."""
    at, last = 0, 0
    for ids_T in column.portions():
        ends_D = at + 1 + np.flatnonzero(ids_T == eos).astype(np.int64)
        at += len(ids_T)
        if len(ends_D):
            last = int(ends_D[-1])
            yield ends_D
    if last < column.count:
        yield np.array([column.count], np.int64)


def _count(column: NumberColumn, eos: int | None) -> int:
    assert eos is not None
    return sum(map(len, _ends_at(column, eos)))


class DatatroveWriter:
    """Writes NAME.ds with its index and metadata. Holds 8 bytes per document."""

    def __init__(self, path: Path, vocab_size: int, tokenizer: str) -> None:
        """tokenizer: what the metadata call it."""
        self._path, self._tokenizer = path, tokenizer
        self._type = WIDTHS[width_for(vocab_size)]
        self._data: BinaryIO = path.open("xb")
        self._ends: list[np.ndarray] = []
        self._tokens = 0

    def write(self, ids_T: np.ndarray, starts_D1: np.ndarray) -> None:
        self._data.write(ids_T.astype(self._type).tobytes())
        self._ends.append((self._tokens + starts_D1[1:]).astype("<u8"))
        self._tokens += len(ids_T)

    def close(self) -> None:
        self._data.close()
        with beside(self._path, "index").open("xb") as file:
            file.writelines(ends_D.tobytes() for ends_D in self._ends)
        about = f"{self._tokens / 1e6:.3g} MT"
        text = f"{self._tokenizer}|{self._type.itemsize}\n{self._tokens}\n{about}"
        beside(self._path, "metadata").write_text(text, encoding="utf-8")
