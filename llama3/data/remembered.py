"""Facts about files of the input that take a pass over their bytes, such as their hashes: worked out once, for this
process and for all that share a folder, and not by each task of a job array again.

A fact holds for a file as it was seen: its path, size, times and number in the file system, which stay while nobody
writes to it. A change makes another key, so that nothing old is ever taken for it; what was written a moment ago, in
which the times could stay, is not remembered.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.artifacts.files import canonical_json, write_json_atomic

Seen = tuple[int, ...]
"""Size, time of change, time of change of that, number: of a file, by `seen`."""
Files = Sequence[tuple[str, Seen]]
YOUNG_SECONDS = 2.0
"""Coarser than the clocks of file systems."""
_shared: ContextVar[Path | None] = ContextVar("shared", default=None)
_own: dict[str, list[Any]] = {}


def seen(path: str | os.PathLike[str]) -> Seen:
    """Raises OSError."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@contextmanager
def shared_facts(folder: Path | None) -> Iterator[None]:
    """What is worked out inside is kept in `folder`, and what other processes have put there is taken from it; with
    None this process remembers it alone."""
    token = _shared.set(folder)
    try:
        yield
    finally:
        _shared.reset(token)


def remembered(what: str, pieces: Sequence[Files], make: Callable[[Files], list[Any]]) -> list[list[Any]]:
    """For each piece what `make` makes of its files (JSON values), made now or before; not kept where it holds "".
    Processes that begin together share the pieces out: each leaves those that another one works on for the end."""
    found: dict[int, list[Any]] = {}
    first = os.getpid() % max(len(pieces), 1)
    for wait in (False, True):
        for n in (*range(first, len(pieces)), *range(first)):
            if n not in found and (value := _fact(what, pieces[n], make, wait=wait)) is not None:
                found[n] = value
    return [found[n] for n in range(len(pieces))]


def _fact(what: str, files: Files, make: Callable[[Files], list[Any]], *, wait: bool) -> list[Any] | None:
    """None where another process makes it and that is not waited for."""
    key = _core.blake3_bytes(repr((what, list(files))).encode("utf-8", "surrogateescape"))
    latest = max(max(marks[1], marks[2]) for _, marks in files)
    if time.time_ns() - latest < YOUNG_SECONDS * 1e9:
        return make(files)
    folder = _shared.get()
    value = _own.get(key) or (make(files) if folder is None else _of_all(folder, key, files, make, wait=wait))
    if value is not None and "" not in value:
        _own[key] = value
    return value


def _of_all(
    folder: Path, key: str, files: Files, make: Callable[[Files], list[Any]], *, wait: bool
) -> list[Any] | None:
    record = folder / f"{key}.json"
    if (known := _read(record)) is not None:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return None
        except OSError:  # there are no locks: several may make the same
            pass
        if (known := _read(record)) is not None:
            return known
        value = make(files)
        if "" not in value:
            with suppress(OSError):
                write_json_atomic(record, {"value": value, "blake3": _core.blake3_bytes(canonical_json(value))})
        return value


def _read(record: Path) -> list[Any] | None:
    """What the record says; None where it is not there, or damaged."""
    try:
        found = json.loads(record.read_bytes())
        value: list[Any] = found["value"]
        return value if _core.blake3_bytes(canonical_json(value)) == found["blake3"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
