"""What a killed process left beside the folder that it was writing: told from what another one is writing now.

While `OUT.tmp-RANDOM` is filled, `OUT.tmp-RANDOM.lock` beside it says by whom, and is locked. The lock goes with its
process, however that ends; so a file that nobody locks marks a leftover. Folders without such a file are never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llama3.artifacts.files import TEMPORARY_MARK

LOCK_SUFFIX = ".lock"


@contextmanager
def owned(temporary: Path) -> Iterator[None]:
    """Say that this process writes `temporary`, until it is done with it."""
    lock = temporary.with_name(temporary.name + LOCK_SUFFIX)
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(lock)
    try:
        os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """A descriptor of a new file, locked; of another one where a sweeper took the first before it was locked."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        with suppress(OSError):  # a file system without locks: then nothing is ever taken for a leftover
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def remove_leftovers(target: Path) -> list[str]:
    """Remove what processes of this machine that are gone left of `target`; the names of these folders."""
    names = re.compile(re.escape(target.name + TEMPORARY_MARK) + "[0-9a-f]{1,8}" + re.escape(LOCK_SUFFIX))
    locks = [path for path in target.parent.glob("*") if names.fullmatch(path.name)] if target.parent.is_dir() else []
    return [left for lock in sorted(locks) if (left := _removed(lock))]


def _removed(lock: Path) -> str:
    """The name of the folder that `lock` marks, removed with it; nothing where its process may still be there."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # another sweeper was faster, or it is somebody else's
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder, content = lock.with_name(lock.name.removesuffix(LOCK_SUFFIX)), os.pread(descriptor, 4096, 0)
        # A process that was killed before it could sign has not begun its folder.
        if not (_is_ours(content) if content else not os.path.lexists(folder)):
            return ""
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return folder.name
    except OSError:  # it is locked, or cannot be
        return ""
    finally:
        os.close(descriptor)


def _is_ours(content: bytes) -> bool:
    """Whether a process of this machine wrote it."""
    try:
        return bool(json.loads(content)["host"] == socket.gethostname())
    except (ValueError, KeyError, TypeError):
        return False


def _this_process() -> dict[str, object]:
    return {"writing": "llama3", "pid": os.getpid(), "host": socket.gethostname()}
