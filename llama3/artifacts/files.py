"""File operations that survive a crash: write beside, fsync, rename, fsync the directory.

POSIX promises that a rename is atomic, not that it or the bytes behind it are on disk; hence the fsyncs,
of the file before the rename and of the directory after it. Temporaries are named `<name>.tmp-<random>`
and live beside their target, so that the rename never crosses a file system and a sweep can find what a
killed process left.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY_MARK = ".tmp-"
_TEMPORARY = re.compile(r".+\.tmp-[0-9a-f]{1,8}")


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no blanks, ASCII. Hashes are taken of this.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def fsync_file(path: Path) -> None:
    """Force a file's bytes to disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_dir(path: Path) -> None:
    """Force a directory's entries to disk. Some network file systems cannot (EINVAL): that alone is
    tolerated.
    """
    try:
        fsync_file(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def fsync_tree(root: Path) -> None:
    """Force everything below `root` to disk, children before their directory."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            fsync_file(Path(folder, name))
        fsync_dir(Path(folder))


def temporary_beside(target: Path) -> Path:
    """A fresh name beside `target` that `sweep` recognises."""
    return target.with_name(f"{target.name}{TEMPORARY_MARK}{secrets.token_hex(4)}")


def publish(temporary: Path, target: Path) -> None:
    """Give a finished, fsynced file or directory its name, for good. A directory never replaces another
    (OSError).
    """
    os.rename(temporary, target)
    fsync_dir(target.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError that names no file, such as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part. Raises OSError."""
    temporary = temporary_beside(path)
    try:
        with naming(path), open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a value as indented JSON, keys in the given order, atomically. Raises ValueError, TypeError, OSError."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    # A surrogate without its other half has no UTF-8; JSON has an escape for it.
    write_bytes_atomic(path, f"{text}\n".encode("utf-8", "backslashreplace"))


def link_atomic(link: Path, target_name: str) -> None:
    """Point the symbolic link `link` at a neighbour, replacing an older link atomically."""
    if link.is_symlink() and os.readlink(link) == target_name:
        return
    temporary = temporary_beside(link)
    os.symlink(target_name, temporary)
    publish(temporary, link)


@contextmanager
def atomic_directory(target: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield an empty directory to fill; on success it is fsynced and renamed to `target`, on any error
    removed. temporary: where it is filled, beside `target`

    Raises FileExistsError when `target` exists: nothing that was made is ever overwritten.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    temporary = temporary or temporary_beside(target)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        fsync_tree(temporary)
        publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path, own: re.Pattern[str] = _TEMPORARY) -> list[str]:
    """Remove temporaries that a killed process left directly in `folder`; return their names.

    `own`: which names are ours, where others may write there too. Call it only while no other process of ours writes
    there (see `run.RunLock`).
    """
    stale = sorted(entry for entry in folder.iterdir() if own.fullmatch(entry.name))
    for entry in stale:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return [entry.name for entry in stale]


def append_json_line(path: Path, value: Any) -> None:
    """Append one JSON object to a log. One `write` per line: concurrent readers never see two lines mixed.

    A line that a crash cut short is closed with a newline first, so that it spoils only itself.
    """
    line = json.dumps(finite(value), sort_keys=False, allow_nan=False, default=str).encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        with naming(path):
            done = os.write(descriptor, line)
            while done < len(line):  # a disk that is nearly full takes a part, then says so
                done += os.write(descriptor, line[done:])
    finally:
        os.close(descriptor)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log, in order. Lines that a crash cut short are left out; a missing log is empty."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(json.JSONDecodeError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value
