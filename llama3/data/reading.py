"""What sources share: finding files, and reading them with bounds. For authors of source plugins.

Policy for bad records: they become a `Reject` with a reason and never stop the run. Text must be UTF-8 (a byte
order mark is dropped); a NUL byte means binary; what is larger than the limit is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.data.documents import DocumentBatch, Kind, Reject, ShardRef
from llama3.errors import ConfigError

NOT_FOUND = ConfigError.declare(
    "L3-SRC-001", "not found", fix="check the path; relative paths start at the working directory"
)
NO_MATCH = ConfigError.declare("L3-SRC-004", "no file of it matches {glob}", fix="check the path and the glob")
ALL_EMPTY = ConfigError.declare("L3-SRC-002", "all {count} files are empty")

BATCH_BYTES = 8 << 20
BATCH_DOCUMENTS = 4096


class FileOptions(BaseModel):
    """Options of sources that read files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a file, a folder, or a glob pattern such as 'data/*.txt'")
    source: str = Field(min_length=1, description="label of the documents, weighted by data.mix")
    glob: str = Field("**/*", description="which files of a folder; names with a leading dot are left out")
    language: str = Field("und", description="language tag of the documents")
    kind: Kind = Field("prose", description="prose or code: decides which rules apply")
    max_document_bytes: int = Field(64 << 20, ge=1, description="larger documents are rejected unread")


def find_files(options: FileOptions, suffixes: Sequence[str] = ()) -> list[Path]:
    """The files that `options` name, sorted by path; in folders only those that end in one of `suffixes`, if given.

    Raises ConfigError where there are none, or where all are empty.
    """
    path = Path(options.path).expanduser()
    where = f"source {options.source!r}: {path}"
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [file for file in path.glob(options.glob) if _is_visible(file.relative_to(path))]
        files = [file for file in files if not suffixes or file.name.endswith(tuple(suffixes))]
    else:
        anchor = Path(path.anchor)
        files = list(anchor.glob(str(path.relative_to(anchor)))) if any(c in str(path) for c in "*?[") else []
    files = sorted(file for file in files if file.is_file())
    if not files:
        if path.is_dir():
            raise NO_MATCH(where, glob=" ".join((options.glob, *suffixes)))
        raise NOT_FOUND(where)
    if not any(file.stat().st_size for file in files):
        raise ALL_EMPTY(where, count=len(files))
    return files


def origin_of(options: FileOptions, file: str | Path) -> str:
    """Name of a file that stays the same wherever the text lies: its path below the folder, or below the fixed part
    of the pattern, that `options` name. For `Collector.add`, so that a corpus that was moved is split the same way."""
    path = Path(options.path).expanduser()
    if not path.is_dir():
        path = next(folder for folder in path.parents if not any(c in str(folder) for c in "*?["))
    return Path(file).relative_to(path).as_posix()


def _is_visible(relative: Path) -> bool:
    return not any(part.startswith(".") for part in relative.parts)


@dataclass
class Collector:
    """Gathers documents and rejects into batches of bounded size.

    for ...:
        yield from collector.add(text, url)
    yield from collector.rest()
    """

    source: str
    language: str = "und"
    kind: Kind = "prose"

    def __post_init__(self) -> None:
        self._clear()

    def add(
        self, text: str, url: str, *, origin: str = "", language: str = "", kind: Kind | None = None, date: str = ""
    ) -> Iterator[DocumentBatch]:
        """Takes a document; yields a batch when one is full."""
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            self.reject(url, "not_utf8", "lone surrogate")
            return
        self._rows.append((text, url, language or self.language, kind or self.kind, origin or url, date))
        self._bytes += size
        if self._bytes >= BATCH_BYTES or len(self._rows) >= BATCH_DOCUMENTS:
            yield from self.rest()

    def reject(self, where: str, reason: str, detail: str = "", score: float = float("nan")) -> None:
        """Logs a record that is no document."""
        self._rejects.append(Reject(where, reason, detail, self.source, score=score))

    def rest(self) -> Iterator[DocumentBatch]:
        """What is gathered, if anything."""
        if self._rows or self._rejects:
            columns = [list(column) for column in zip(*self._rows, strict=True)] or [[]] * 6
            texts, urls, languages, kinds, origins, dates = columns
            yield DocumentBatch.of(
                texts,
                source=self.source,
                urls=urls,
                language=languages,
                kind=kinds,
                origins=origins,
                dates=dates,
                rejects=self._rejects,
            )
            self._clear()

    def _clear(self) -> None:
        self._rows: list[tuple[str, str, str, Kind, str, str]] = []
        self._rejects: list[Reject] = []
        self._bytes = 0


def read_document(path: Path, collector: Collector, max_bytes: int) -> str | None:
    """The text of a UTF-8 file, or None after its rejection was logged."""
    data = read_bytes(path, collector, max_bytes)
    return None if data is None else decode(data, str(path), collector)


def read_bytes(path: Path, collector: Collector, max_bytes: int) -> bytes | None:
    """The content of a file, or None after its rejection was logged."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            collector.reject(str(path), "too_large", f"{size} bytes; the limit is {max_bytes}", size)
            return None
        return path.read_bytes()
    except OSError as error:
        collector.reject(str(path), "unreadable", os.strerror(error.errno) if error.errno else str(error))
        return None


def decode(data: bytes, where: str, collector: Collector, encoding: str = "utf-8") -> str | None:
    """The text in `data`, or None after its rejection was logged."""
    if b"\0" in data:
        collector.reject(where, "binary", f"NUL byte at {data.index(0)}")
        return None
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError) as error:
        collector.reject(where, "not_utf8", str(error))
        return None


def bounded_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(line number from 1, line without its end); None in place of a line longer than `max_bytes`, which is
    skipped in pieces. Memory is bounded by the limit, time is linear."""
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        yield number, None


def shard_of(source: str, location: str, files: Sequence[Path], part: int = 0) -> ShardRef:
    """The shard that `files` make up, with their size and a stamp of their names, sizes and times of change."""
    facts = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    return ShardRef(source, location, part, sum(size for _, size, _ in facts), _core.blake3_bytes(repr(facts).encode()))
