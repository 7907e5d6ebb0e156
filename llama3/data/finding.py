"""Which files a path names: a file, all below a folder (links are followed), or those that match a pattern.

What is met and left out is counted with the reason, so that nobody trains on less than he thinks. Folders in which runs
work are no input: what a run writes would be another one each time.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llama3.artifacts.lock import LOCK
from llama3.data.columns import printable
from llama3.data.documents import Reject
from llama3.plugins.registry import discover
from llama3.plugins.specs import SourceSpec

MAGIC = "*?["


def has_magic(path: str) -> bool:
    """Whether a path is a pattern."""
    return any(sign in path for sign in MAGIC)


@dataclass
class Found:
    """The files, sorted by path, and what was left out."""

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """(path, reason, detail)"""

    @property
    def counts(self) -> Counter[str]:
        """How much was left out, by reason."""
        return Counter(reason for _, reason, _ in self.left_out)

    def unread(self, source: str) -> Iterator[Reject]:
        """What was left out, for the reject log."""
        rows = sorted(self.left_out)
        return (Reject(printable(path), reason, printable(detail), source) for path, reason, detail in rows)


def find(path: Path, glob: str, suffixes: tuple[str, ...]) -> Found:
    """The files at `path`: itself, those of the folder that match `glob` and end in one of `suffixes` (in any case;
    none: all), or those that match it as a pattern.

    Names with a leading dot are left out, in folders and patterns alike, unless the pattern begins with a dot there.
    """
    if path.is_file():
        return Found([path])
    search = _Search(suffixes if path.is_dir() else ())
    if path.is_dir():
        search.match(path, _parts(glob), (_identity(path),))
    elif has_magic(str(path)):
        fixed = next(folder for folder in path.parents if not has_magic(str(folder)))
        if fixed.is_dir():
            search.match(fixed, _parts(str(path.relative_to(fixed))), (_identity(fixed),))
    search.found.files = sorted(set(search.found.files))
    return search.found


def _parts(pattern: str) -> list[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    return [*parts, "*"] if parts[-1:] == ["**"] else parts


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


class _Search:
    """Walks down a pattern, component by component. `above` are the folders on the way: a link back to one of them
    would be followed for ever."""

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.found = Found()
        self.suffixes = suffixes
        self._seen: set[tuple[str, str]] = set()

    def match(self, folder: Path, parts: list[str], above: tuple[tuple[int, int], ...]) -> None:
        part, rest = parts[0], parts[1:]
        if part == "**":
            self.match(folder, rest, above)
        for entry in self._entries(folder):
            if part == "**":
                if self._is_folder(entry) and not self._is_hidden(entry, part):
                    self._down(entry, parts, above)
            elif not fnmatch.fnmatchcase(entry.name, part) or self._is_hidden(entry, part):
                continue
            elif not rest:
                self._take(entry)
            elif self._is_folder(entry):
                self._down(entry, rest, above)

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._leave(str(folder), "unreadable_folder", os.strerror(error.errno or 0))
            return []

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:
            return False

    def _is_hidden(self, entry: os.DirEntry[str], part: str) -> bool:
        hidden = entry.name.startswith(".") and not part.startswith(".")
        if hidden and (part != "**" or self._is_folder(entry)):
            self._leave(entry.path, "hidden", "its name begins with a dot")
        return hidden

    def _down(self, entry: os.DirEntry[str], parts: list[str], above: tuple[tuple[int, int], ...]) -> None:
        try:
            identity = _identity(entry)
        except OSError as error:
            return self._leave(entry.path, "unreadable_folder", os.strerror(error.errno or 0))
        if _is_own(Path(entry.path)):
            return None  # and not told: what is told is part of what a corpus was made of
        if identity in above:
            return self._leave(entry.path, "link_cycle", f"a link to {os.path.realpath(entry.path)}")
        self.match(Path(entry.path), parts, (*above, identity))

    def _take(self, entry: os.DirEntry[str]) -> None:
        if self._is_folder(entry):
            return
        try:
            is_file = entry.is_file()
            exists = is_file or os.path.exists(entry.path)
        except OSError:
            is_file = exists = False
        if not exists:
            self._leave(entry.path, "broken_link", f"a link to {os.path.realpath(entry.path)}")
        elif not is_file:
            self._leave(entry.path, "no_file", "a device, a socket or a pipe")
        elif self.suffixes and not entry.name.lower().endswith(self.suffixes):
            self._leave(entry.path, "other_ending", f"it ends in none of {' '.join(self.suffixes)}")
        else:
            self.found.files.append(Path(entry.path))

    def _leave(self, path: str, reason: str, detail: str) -> None:
        if (path, reason) not in self._seen:
            self._seen.add((path, reason))
            self.found.left_out.append((path, reason, detail))


def _is_own(folder: Path) -> bool:
    """Whether a run works in a folder, or a corpus is made there in parts: what they write would be another input each
    time."""
    in_parts = folder.name.endswith(".parts") and (folder / "facts").is_dir()
    return in_parts or ((folder / LOCK).is_file() and (folder / "artifacts").is_dir())


def known_endings() -> list[tuple[str, str]]:
    """The endings of file names and the sources that read such files, the longest first."""
    specs = [offer.spec for offer in discover().offers if isinstance(offer.spec, SourceSpec)]
    rows = ((ending, spec.name) for spec in specs for ending in spec.endings)
    return sorted(rows, key=lambda row: (-len(row[0]), row[1]))
