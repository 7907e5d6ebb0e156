"""A file of JSON lines that only grows, and in which every line counts: a broken one is named and refused.

A line is on the disk when `append` returns. One that a crash cut short was never acknowledged: what stands behind the
last whole line is moved into a file beside, NAME.cut-short, when the file is opened again. A last line that lacks only
its end, as an editor leaves it, stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from llama3.artifacts.files import fsync_dir, naming
from llama3.errors import ArtifactError, DataError, Problem

NOT_JSON = DataError.declare("L3-ANN-001", "the line is not a JSON object", why="{error}", fix="mend or remove it")
CHANGED = ArtifactError.declare(
    "L3-ANN-002",
    "the file was changed by another program since it was opened",
    why="what is appended now could be lost",
    fix="start the command again; the file is read anew then",
)
MORE = DataError.declare("L3-ANN-003", "and {count} more problems")
MOST_PROBLEMS = 20

Row = dict[str, Any]
L = TypeVar("L")


def read_lines(path: Path, read: Callable[[Row, str], L]) -> list[L]:
    """What `read` makes of every line and its place, `NAME:NUMBER`. A missing file is empty, blank lines are nothing,
    and so is the rest of a line that a crash cut short. Raises DataError with the problems of all lines."""
    found, problems = [], []
    for where, line in _lines(path):
        try:
            found.append(read(_object(line, where), where))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of([*problems[:MOST_PROBLEMS], *_rest(path, len(problems) - MOST_PROBLEMS)])
    return found


class AnnotationFile(Generic[L]):
    """The file at `path`, read strictly: `lines` are what `read` makes of them. Raises DataError as `read_lines` does;
    nothing is changed then."""

    def __init__(self, path: Path, read: Callable[[Row, str], L]) -> None:
        self.path, self._read = path, read
        self.lines = read_lines(path, read)
        self.cut_short = False
        """Whether something stood behind the last whole line."""
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if is_new:
            fsync_dir(path.parent)
        self._end_last_line()
        self._size = os.fstat(self._file).st_size

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add lines and wait until they are on the disk. Raises OSError where that fails, and ArtifactError where
        another program has changed the file: nothing is added then."""
        if not rows:
            return
        self._require_ours()
        found = [self._read(dict(row), f"{self.path.name}: new") for row in rows]
        data = b"".join(map(_line_of, rows))
        try:
            with naming(self.path):
                self._write(data)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self.lines += found

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        done = 0
        while done < len(data):  # a disk that is nearly full takes a part, then says so
            done += os.write(self._file, data[done:])
        os.fsync(self._file)

    def _require_ours(self) -> None:
        """An editor puts a new file in the place of the old one, or writes into it."""
        ours = os.fstat(self._file)
        try:
            there = self.path.stat()
        except OSError:
            raise CHANGED(self.path) from None
        if (there.st_dev, there.st_ino, there.st_size) != (ours.st_dev, ours.st_ino, self._size):
            raise CHANGED(self.path)

    def _end_last_line(self) -> None:
        data = self.path.read_bytes()
        if not data or data.endswith(b"\n"):
            return
        rest = data[data.rfind(b"\n") + 1 :]
        if is_whole(rest):
            self._write(b"\n")
            return
        with self.path.with_name(f"{self.path.name}.cut-short").open("ab") as beside:
            beside.write(rest + b"\n")
            beside.flush()
            os.fsync(beside.fileno())
        os.ftruncate(self._file, len(data) - len(rest))
        os.fsync(self._file)
        self.cut_short = True


def _line_of(row: Mapping[str, Any]) -> bytes:
    """Half of a character has no UTF-8; JSON has an escape for it."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def is_whole(line: bytes) -> bool:
    """Whether the last line of a file lacks nothing but its end: no beginning of an object is one."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and (line.endswith(b"\n") or is_whole(line)):
                yield f"{path.name}:{number}", line


def _object(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise NOT_JSON(where, error=error) from None
    if not isinstance(value, dict):
        raise NOT_JSON(where, error=f"it is of the type {type(value).__name__}")
    return value


def _rest(path: Path, count: int) -> list[Problem]:
    return [MORE.problem(path.name, count=count)] if count > 0 else []
