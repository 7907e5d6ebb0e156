"""Checkpoints that are either whole or not there.

Layout of one: `step-N/` with safetensors shards per group of tensors, `state.json` (step, tokens, algorithm state),
`manifest.json` (name, size and blake3 of every file) and, written last, `COMMIT` (blake3 of the manifest).
A directory is written under a temporary name, fsynced and renamed; what has no valid COMMIT is never loaded.
Nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama3._core import blake3_bytes, blake3_file
from llama3.artifacts.files import (
    atomic_directory,
    canonical_json,
    is_disk_full,
    publish,
    sweep,
    temporary_beside,
    write_bytes_atomic,
)
from llama3.errors import CheckpointError, Problem

DAMAGED = CheckpointError.declare(
    "L3-TRN-011",
    "{what}",
    fix="an older checkpoint is used where there is one; else remove this directory to start anew",
)
OTHER_SCHEMA = CheckpointError.declare(
    "L3-TRN-012",
    "cannot be read",
    why="its schema is {schema}, this version reads {known}",
    fix="use the version that wrote it",
)
NOT_WRITTEN = CheckpointError.declare(
    "L3-TRN-013", "checkpoint was not written", why="{error}", fix="check the disk and its permissions"
)
OTHER_RUN = CheckpointError.declare(
    "L3-TRN-014",
    "belongs to another run: {key} was {old!r} and is now {new!r}",
    fix="continue with the old value, or remove the checkpoints to start anew",
)
DISK_FULL = CheckpointError.declare(
    "L3-TRN-016",
    "checkpoint was not written",
    why="{error}",
    fix="free disk space and run the same command again",
)

log = logging.getLogger(__name__)

SCHEMA = 1
SHARD_BYTES = 256 << 20
"""Of one file. safetensors copies what it writes: this bounds the copy, which would else be as large as the state."""
_STEP = re.compile(r"step-(\d+)")

Groups = Mapping[str, Iterable[tuple[str, Tensor]]]
"""Named tensors of each group ("model", "optimizer"), which may come one at a time."""


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of some files by name, read (on the CPU) one at a time, when asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, torch.Size] = {}
        for file in files:
            try:
                self._open(file)
            except SafetensorError as error:
                raise DAMAGED(file, what=f"is no file of tensors ({error})") from error

    def _open(self, file: Path) -> None:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                self._files[name] = file
                self.shapes[name] = torch.Size(tensors.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose files were verified."""

    step: int
    path: Path
    state: dict[str, Any]

    def tensors(self, group: str) -> StoredTensors:
        """The tensors of a group; empty where the checkpoint has no such group."""
        return StoredTensors(sorted(self.path.glob(f"{group}-*.safetensors")))


class CheckpointStore:
    """The checkpoints of one training stage in one directory. A single process writes; any number may read."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError("keep must be at least 2: one checkpoint may turn out damaged")
        self.directory = Path(directory)
        self.keep = keep

    # -- reading ---------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, oldest first. Not verified."""
        if not self.directory.is_dir():
            return []
        names = (_STEP.fullmatch(path.name) for path in self.directory.iterdir() if (path / "COMMIT").exists())
        return sorted(int(name[1]) for name in names if name)

    def load(self, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that verifies (of step `at_most` or before), or None where none was ever committed.

        A damaged one is named in a warning and the next older is taken. Raises CheckpointError, with the damage of
        each, where checkpoints were committed and none of them verifies: training anew would hide a fault.
        """
        problems: list[Problem] = []
        for step in reversed([step for step in self.steps() if at_most is None or step <= at_most]):
            try:
                return self.verify(step)
            except CheckpointError as error:
                problems += error.problems
                log.warning("checkpoint of step %d is damaged, trying an older one: %s", step, error)
        if problems:
            raise CheckpointError.of(problems)
        return None

    def verify(self, step: int) -> Checkpoint:
        """The checkpoint of `step` after checking COMMIT, sizes and hashes. Raises CheckpointError naming a file."""
        path = self._path(step)
        manifest = self._manifest(path)
        for entry in manifest["files"]:
            file = path / entry["name"]
            if not file.is_file():
                raise DAMAGED(file, what="is missing")
            if file.stat().st_size != entry["bytes"]:
                raise DAMAGED(file, what=f"has {file.stat().st_size} bytes instead of {entry['bytes']}")
            if blake3_file(str(file)) != entry["blake3"]:
                raise DAMAGED(file, what="does not have the content that was written (hash differs)")
        return Checkpoint(step, path, json.loads((path / "state.json").read_bytes()))

    def _manifest(self, path: Path) -> dict[str, Any]:
        """The manifest, after checking it against COMMIT and that it names plain files only."""
        file = path / "manifest.json"
        try:
            content, commit = file.read_bytes(), (path / "COMMIT").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DAMAGED(path, what=f"cannot be read ({error})") from error
        if blake3_bytes(content) != commit:
            raise DAMAGED(file, what="is not what COMMIT vouches for (hash differs)")
        manifest: dict[str, Any] = json.loads(content)
        if manifest["schema"] != SCHEMA:
            raise OTHER_SCHEMA(file, schema=manifest["schema"], known=SCHEMA)
        names = [entry["name"] for entry in manifest["files"]]
        if "state.json" not in names or any(Path(name).name != name for name in names):
            raise DAMAGED(file, what="lists files that are no checkpoint's")
        return manifest

    # -- writing ---------------------------------------------------------------------------------

    def save(self, step: int, groups: Groups, state: Mapping[str, Any]) -> Path:
        """Write and commit the checkpoint of `step`; then drop old ones, keeping the newest `keep` that verify.

        A checkpoint of this step that verifies is left as it is (a resumed run repeats its steps bit for bit).
        Raises CheckpointError where it cannot be written; what was there stays.
        """
        final = self._path(step)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if final.exists():
                if self._verifies(step):
                    return final
                self._discard(final)
            with atomic_directory(final) as directory:
                self._write(directory, step, groups, state)
            # Last, by a rename of its own: where COMMIT is, everything it vouches for is on the disk.
            commit = blake3_bytes((final / "manifest.json").read_bytes())
            write_bytes_atomic(final / "COMMIT", f"{commit}\n".encode("ascii"))
        except (OSError, SafetensorError) as error:
            failed = DISK_FULL if is_disk_full(error) else NOT_WRITTEN
            raise failed(final, error=error) from error
        self.verify(step)
        self._purge(step)
        return final

    def forget_after(self, step: int) -> None:
        """Drop the checkpoints of later steps: training goes another way from here."""
        for later in self.steps():
            if later > step:
                self._discard(self._path(later))

    def _write(self, directory: Path, step: int, groups: Groups, state: Mapping[str, Any]) -> None:
        for group, tensors in groups.items():
            for number, shard in enumerate(_shards(tensors)):
                save_file(shard, directory / f"{group}-{number:05d}.safetensors")
        (directory / "state.json").write_bytes(canonical_json(state))
        files = sorted(directory.iterdir())
        committed = self.steps()
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "torch": torch.__version__,
            "parent": committed[-1] if committed else None,
            "files": [
                {"name": file.name, "bytes": file.stat().st_size, "blake3": blake3_file(str(file))} for file in files
            ],
        }
        (directory / "manifest.json").write_bytes(canonical_json(manifest))

    def _purge(self, newest: int) -> None:
        """Called once `newest` has verified: drop all committed checkpoints older than the newest `keep` good ones."""
        good = 1
        for step in reversed(self.steps()):
            if step == newest:
                continue
            if good >= self.keep:
                self._discard(self._path(step))
            elif self._verifies(step):
                good += 1

    def _verifies(self, step: int) -> bool:
        try:
            self.verify(step)
        except CheckpointError:
            return False
        return True

    def _sweep(self) -> None:
        """Remove what a killed save left behind: temporary directories, and renamed ones without COMMIT."""
        sweep(self.directory)
        for path in list(self.directory.iterdir()):
            if _STEP.fullmatch(path.name) and not (path / "COMMIT").exists():
                shutil.rmtree(path)

    def _discard(self, path: Path) -> None:
        """Rename first, so that a half-deleted checkpoint is never taken for a damaged one."""
        doomed = temporary_beside(path)
        publish(path, doomed)
        shutil.rmtree(doomed)

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step}"


def check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """Refuse a checkpoint of another run: one CheckpointError with every value that differs."""
    different = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if different:
        raise CheckpointError.of(
            OTHER_RUN.problem(where, key=key, old=found.get(key), new=expected.get(key)) for key in different
        )


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Cut a group into files of at most SHARD_BYTES (a single larger tensor has a file of its own)."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.cpu().contiguous()
        size += tensor.nbytes
    if shard:
        yield shard
