"""Finished pieces of work in a folder that several processes fill, each with a record that is written last.

A file has a hash of its content in its name, and a record says which files belong together, with their sizes and whole
hashes. So two processes that do the same piece at once disturb nobody, a killed one leaves nothing that counts, and
what a disk has damaged is found where it is read and made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.artifacts.files import fsync_file, naming, temporary_beside, write_json_atomic

DIGITS = 16
"""Of a content's hash, in the name of its file."""
RECORD = ".json"


@dataclass(frozen=True)
class Commit:
    """What a record says: files by their endings, and facts."""

    files: Mapping[str, Path]
    facts: Mapping[str, Any]
    hash: str
    """Of the contents of all files."""

    def __getitem__(self, fact: str) -> Any:
        return self.facts[fact]


def commit(folder: Path, name: str, files: Mapping[str, Path], facts: Mapping[str, Any]) -> Commit:
    """Gives finished files (ending, such as ".parquet", to where it lies; it is moved) their names and writes the
    record `<name>.json`. Facts are JSON. Raises OSError."""
    entries: dict[str, dict[str, Any]] = {}
    for ending, begun in files.items():
        fsync_file(begun)
        size, content = begun.stat().st_size, _core.blake3_file(str(begun))
        entries[ending] = {"name": f"{name}-{content[:DIGITS]}{ending}", "bytes": size, "blake3": content}
        os.rename(begun, folder / entries[ending]["name"])
    write_json_atomic(folder / f"{name}{RECORD}", {"files": entries, "facts": dict(facts)})
    return _commit(folder, entries, facts)


def committed(folder: Path, name: str, *, check: bool = True) -> Commit | None:
    """What the record says, where it is there and its files are what it says; `check` reads them to know."""
    try:
        record = json.loads((folder / f"{name}{RECORD}").read_bytes())
        entries, facts = record["files"], record["facts"]
        for entry in entries.values():
            path = folder / entry["name"]
            if path.stat().st_size != entry["bytes"] or (check and _core.blake3_file(str(path)) != entry["blake3"]):
                return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return _commit(folder, entries, facts)


def _commit(folder: Path, entries: Mapping[str, Any], facts: Mapping[str, Any]) -> Commit:
    hashes = sorted((ending, entry["blake3"]) for ending, entry in entries.items())
    files = {ending: folder / entry["name"] for ending, entry in entries.items()}
    return Commit(files, facts, _core.blake3_bytes(repr(hashes).encode()))


class Begun:
    """Names for files that are being written, beside where they will lie; what is left of them is removed at the end.

    with Begun(folder, "000003") as begun:
        write(begun.file(".parquet"))
        begun.commit({"documents": 7})
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._files: dict[str, Path] = {}

    def __enter__(self) -> Begun:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._files.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def file(self, ending: str) -> Path:
        """Where to write the file of this ending."""
        return self._files.setdefault(ending, temporary_beside(self.folder / f"{self.name}{ending}"))

    def commit(self, facts: Mapping[str, Any]) -> Commit:
        """All files are written."""
        with naming(self.folder):
            return commit(self.folder, self.name, self._files, facts)
