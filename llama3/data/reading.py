"""What sources share: finding files, and reading them with bounds. For authors of source plugins.

Policy for bad records: they become a `Reject` with a reason and never stop the run. Text must be UTF-8 (a byte
order mark is dropped), a file may be in UTF-16 or UTF-32 too; a NUL character means binary, however it is written; what
is larger than the limit is not read.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.data.columns import HALF_A_PAIR, HAS_NUL, NOTHING_VISIBLE, VISIBLE, printable, text_column
from llama3.data.documents import DocumentBatch, Kind, Reject, ShardFile, ShardRef
from llama3.data.finding import Found, find, has_magic
from llama3.data.remembered import Seen, remembered, seen
from llama3.errors import ConfigError, DataError

NOT_FOUND = ConfigError.declare(
    "L3-SRC-001", "not found", fix="check the path; relative paths start at the working directory"
)
NO_MATCH = ConfigError.declare(
    "L3-SRC-004", "no file of it matches {glob}", why="{others}", fix="check the path and the glob"
)
ALL_EMPTY = ConfigError.declare("L3-SRC-002", "all {count} files are empty")
CHANGED = DataError.declare("L3-SRC-014", "changed while it was read", fix="run again when nobody writes to it")

MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
"""What a text begins with that is not in UTF-8. That of UTF-32-LE begins as that of UTF-16-LE does."""
BATCH_BYTES = 8 << 20
BATCH_DOCUMENTS = 4096
GROUP_BYTES, GROUP_FILES = 64 << 20, 1024
"""Of files whose hashes are remembered together: a group ends with the file that brings it here."""


class FileOptions(BaseModel):
    """Options of sources that read files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="a file, a folder (with what its links point to), or a pattern such as 'data/*.txt'")
    source: str = Field(min_length=1, description="label of the documents, weighted by data.mix")
    glob: str = Field("**/*", description="which files of a folder; names with a leading dot are left out")
    language: str = Field("und", description="language tag of the documents")
    kind: Kind = Field("prose", description="prose, code or made (by a program: no rule applies)")
    max_document_bytes: int = Field(64 << 20, ge=1, description="larger documents are rejected unread")


def origin_of(options: FileOptions, file: str | Path) -> str:
    """Name of a file that stays the same wherever the text lies: its path below the folder, or below the fixed part
    of the pattern, that `options` name. For `Collector.add`, so that a corpus that was moved is split the same way."""
    path = Path(options.path).expanduser()
    if not path.is_dir():
        path = next(folder for folder in path.parents if not has_magic(str(folder)))
    return printable(Path(file).relative_to(path).as_posix())


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
        """Takes a document, or rejects what is no text; yields a batch when one is full."""
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            return self.reject(url, "not_utf8", HALF_A_PAIR)
        if "\0" in text:
            return self.reject(url, "binary", HAS_NUL)
        # Nearly every text begins with a character of ASCII that is visible, which is seen sooner.
        if not "!" <= text[:1] <= "~" and not VISIBLE.search(text):
            return self.reject(url, "no_text", NOTHING_VISIBLE)
        if self._bytes and self._bytes + size > BATCH_BYTES:
            yield from self.rest()
        self._rows.append((text, url, language or self.language, kind or self.kind, origin or url, date))
        self._bytes += size
        if self._bytes >= BATCH_BYTES or len(self._rows) >= BATCH_DOCUMENTS:
            yield from self.rest()

    def reject(self, where: str, reason: str, detail: str = "", score: float = float("nan")) -> None:
        """Logs a record that is no document."""
        self._rejects.append(Reject(printable(where), reason, printable(detail), self.source, score=score))

    def rest(self) -> Iterator[DocumentBatch]:
        """What is gathered, if anything."""
        if self._rows or self._rejects:
            columns = [list(column) for column in zip(*self._rows, strict=True)] or [[]] * 6
            texts, urls, languages, kinds, origins, dates = columns
            yield DocumentBatch.of(
                text_column(texts),
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


def read_document(file: ShardFile, collector: Collector, max_bytes: int) -> str | None:
    """The text of a file (`decode_file`), or None after its rejection was logged."""
    data = read_bytes(file, collector, max_bytes)
    return None if data is None else decode_file(data, file.path, collector)


def read_bytes(file: ShardFile, collector: Collector, max_bytes: int) -> bytes | None:
    """The content of a file as it was when it was listed, or None after its rejection was logged."""
    try:
        size = os.stat(file.path).st_size
        if size > max_bytes:
            collector.reject(file.path, "too_large", f"{size} bytes; the limit is {max_bytes}", size)
            return None
        data = Path(file.path).read_bytes()
    except OSError as error:
        collector.reject(file.path, "unreadable", os.strerror(error.errno) if error.errno else str(error))
        return None
    if _core.blake3_bytes(data) != file.blake3:
        collector.reject(file.path, "changed", "its content is another than when the run began")
        return None
    return data


def decode_file(data: bytes, where: str, collector: Collector) -> str | None:
    """The text of a whole file, which is in UTF-8, or in UTF-16 or UTF-32 and begins with a byte order mark; None after
    its rejection was logged."""
    if not data.startswith(MARKS):
        return decode(data, where, collector)
    try:
        return data.decode(json.detect_encoding(data[:4]))
    except UnicodeDecodeError as error:
        collector.reject(where, "not_utf8", str(error))
        return None


def decode(data: bytes, where: str, collector: Collector) -> str | None:
    """The text in `data`, which must be UTF-8, or None after its rejection was logged."""
    if b"\0" in data:
        collector.reject(where, "binary", f"NUL byte at {data.index(0)}")
        return None
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
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


def shards_of(
    options: FileOptions, suffixes: Sequence[str] = (), *, files_per_shard: int = 1, unread_above: int | None = None
) -> list[ShardRef]:
    """The files that `options` name as shards, sorted by path. Their identity is what they hold, not when it was
    written; what stands there too and is not read is told in `unread` of the first.

    Files above `unread_above` bytes are told apart by their size only. Raises ConfigError where there is no file, or
    where all are empty.
    """
    found = files_of(options, suffixes)
    files = listed_all(found.files, unread_above)
    whole = files_per_shard == 1
    shards = []
    for part, at in enumerate(range(0, len(files), files_per_shard)):
        some = files[at : at + files_per_shard]
        location = printable(some[0].path if whole else options.path)
        unread = () if part else tuple(found.unread(options.source))
        shards.append(shard_of(options.source, location, some, 0 if whole else part, unread))
    return shards


def files_of(options: FileOptions, suffixes: Sequence[str] = ()) -> Found:
    """The files that `options` name, found and not read. Raises ConfigError where there is none, or all are empty."""
    path = Path(options.path).expanduser()
    where = f"source {options.source!r}: {printable(str(path))}"
    found = find(path, options.glob, tuple(suffixes))
    if not found.files:
        if path.is_dir():
            others = "not read: " + "; ".join(f"{reason} {count}" for reason, count in found.counts.items())
            raise NO_MATCH(where, glob=" ".join((options.glob, *suffixes)), others=others if found.counts else "")
        raise NOT_FOUND(where)
    if not any(_size(file) for file in found.files):
        raise ALL_EMPTY(where, count=len(found.files))
    return found


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 1  # whoever reads it will say what is wrong


def listed(path: Path, unread_above: int | None = None) -> ShardFile:
    """A file with the hash of its content, "" where it cannot be read or is larger than `unread_above`."""
    return listed_all([path], unread_above)[0]


def listed_all(paths: Sequence[Path], unread_above: int | None = None) -> list[ShardFile]:
    """Files as `listed` tells them. Hashes are worked out once for all processes that share them
    (llama3.data.remembered)."""
    marks = [_seen(path) for path in paths]
    wanted = [n for n, seen in enumerate(marks) if seen and (unread_above is None or seen[0] <= unread_above)]
    groups: list[list[int]] = []
    size = 0
    for n in wanted:
        if not groups or size >= GROUP_BYTES or len(groups[-1]) >= GROUP_FILES:
            groups.append([])
            size = 0
        groups[-1].append(n)
        size += marks[n][0]
    files = [[(str(paths[n]), marks[n]) for n in group] for group in groups]
    found = remembered("blake3", files, lambda some: [_hash(path) for path, _ in some])
    hashes = {n: hash for group, own in zip(groups, found, strict=True) for n, hash in zip(group, own, strict=True)}
    return [
        ShardFile(str(path), seen[0], hashes.get(n, ""), seen)
        if seen and hashes.get(n) != ""
        else ShardFile(str(path), 0, "")
        for n, (path, seen) in enumerate(zip(paths, marks, strict=True))
    ]


def _seen(path: str | Path) -> Seen:
    """Empty where it is not there."""
    try:
        return seen(path)
    except OSError:
        return ()


def _hash(path: str) -> str:
    try:
        return _core.blake3_file(path)
    except OSError:
        return ""


def require_unchanged(shard: ShardRef) -> None:
    """For sources that read a file piece by piece: raises DataError (L3-SRC-014) where it is another than was listed,
    after it was read."""
    for file in shard.files:
        now = _seen(file.path)
        if not now or (file.seen != now and file.blake3 != _hash(file.path)):
            raise CHANGED(printable(file.path))


def shard_of(
    source: str, location: str, files: Sequence[ShardFile], part: int = 0, unread: Sequence[Reject] = ()
) -> ShardRef:
    """The shard that `files` make up, with their size and a stamp of their names and contents."""
    facts = [(printable(file.path), file.bytes, file.blake3) for file in files]
    stamp = _core.blake3_bytes(repr(facts).encode())
    return ShardRef(source, location, part, sum(file.bytes for file in files), stamp, tuple(files), tuple(unread))


def pieces_of(shard: ShardRef, spans: Sequence[tuple[int, ...]], bytes_of: Sequence[int]) -> list[ShardRef]:
    """A shard of one large file in pieces that several processes can read: what of it each is (`ShardRef.span`, in
    numbers that its source knows), and so many bytes. They are a function of the file alone, so that a corpus does not
    depend on how many processes read it."""
    if len(spans) <= 1:
        return [shard]
    return [
        replace(
            shard,
            part=part,
            span=span,
            bytes=size,
            stamp=_core.blake3_bytes(repr((shard.stamp, span)).encode()),
            unread=shard.unread if part == 0 else (),
        )
        for part, (span, size) in enumerate(zip(spans, bytes_of, strict=True))
    ]
