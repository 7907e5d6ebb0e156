"""Checkpoints that are either whole or not there.

Layout of one: `step-N/` with the safetensors files of every rank, `index.json` (which part of which tensor lies in
which of them, llama3.training.parts), `state.json` (step, tokens, algorithm state), `manifest.json` (name, size and
blake3 of every file) and, written last, `COMMIT` (blake3 of the manifest). A directory is filled under a temporary
name, fsynced and renamed; what has no valid COMMIT is never loaded. Nothing is pickled.

llama3.training.saving fills it, on all ranks at once and behind training.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llama3._core import blake3_bytes, blake3_file
from llama3.artifacts.files import (
    canonical_json,
    fsync_dir,
    fsync_file,
    publish,
    sweep,
    temporary_beside,
    write_bytes_atomic,
)
from llama3.checkpoints.weights import save_tensors
from llama3.errors import CheckpointError, Problem
from llama3.training.agreement import problems_of_all
from llama3.training.parallel import ParallelContext
from llama3.training.parts import Groups, Index, Row, StoredTensors, cut_by_size, refuse_gaps

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
INCOMPLETE = CheckpointError.declare(
    "L3-TRN-041",
    "has {found} bytes where its writer counted {wanted}",
    why="the file system has lost some of it, or shows it to other machines late",
    fix="put run.dir on a file system on which all machines see at once what one of them has written",
)
OTHER_RUN = CheckpointError.declare(
    "L3-TRN-014",
    "belongs to another run: {key} was {old!r} and is now {new!r}",
    fix="continue with the old value, or remove the checkpoints to start anew",
)

log = logging.getLogger(__name__)

SCHEMA = 2
FILE_BYTES = 256 << 20
"""Of one file of tensors. safetensors copies what it writes: this bounds the copy, which would else be as large as the
state."""
_STEP = re.compile(r"step-(\d+)")
_ALONE = ParallelContext(torch.device("cpu"))


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint whose files were verified."""

    step: int
    path: Path
    state: dict[str, Any]

    @cached_property
    def _index(self) -> Index:
        index: Index = json.loads((self.path / "index.json").read_bytes())
        return index

    def tensors(self, group: str) -> StoredTensors:
        """The tensors of a group; empty where the checkpoint has no such group."""
        return StoredTensors(self.path, self._index.get(group, {}))


@dataclass(frozen=True)
class Share:
    """Of the work of verifying: this rank's, where so many ranks verify together."""

    rank: int = 0
    ranks: int = 1

    def of(self, files: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Every rank takes some of the tensors, and all that is not tensors."""
        shared = [entry for entry in files if entry["name"].endswith(".safetensors")]
        return [*shared[self.rank :: self.ranks], *(entry for entry in files if entry not in shared)]


class CheckpointStore:
    """The checkpoints of one training stage in one directory, which all ranks see."""

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

    def load(self, at_most: int | None = None, context: ParallelContext = _ALONE) -> Checkpoint | None:
        """The newest checkpoint that verifies (of step `at_most` or before), or None where none was ever committed. All
        ranks of a context must call it together: each verifies a share, and all find the same.

        A damaged one is named in a warning and the next older is taken. Raises CheckpointError, with the damage of
        each, where checkpoints were committed and none of them verifies: training anew would hide a fault.
        """
        problems: list[Problem] = []
        for step in reversed(context.gather(self.steps(), "world")[0]):
            if at_most is not None and step > at_most:
                continue
            share = Share(context.rank, context.dims.world)
            found, damage = self._examined(step, share)
            damage = problems_of_all(damage, context)
            if found is not None and not damage:
                return found
            problems += damage
            log.warning("checkpoint of step %d is damaged, trying an older one: %s", step, CheckpointError.of(damage))
        if problems:
            raise CheckpointError.of(problems)
        return None

    def verify(self, step: int, share: Share = Share()) -> Checkpoint:
        """The checkpoint of `step` after checking COMMIT, sizes and hashes. Raises CheckpointError naming a file."""
        path = self._path(step)
        for entry in share.of(self._manifest(path)["files"]):
            _verify_file(path / entry["name"], entry)
        return Checkpoint(step, path, json.loads((path / "state.json").read_bytes()))

    def damaged(self, share: Share) -> list[int]:
        """Steps of the committed checkpoints of which a share does not verify."""
        return [step for step in self.steps() if self._examined(step, share)[1]]

    def _examined(self, step: int, share: Share) -> tuple[Checkpoint | None, list[Problem]]:
        try:
            return self.verify(step, share), []
        except CheckpointError as error:
            return None, error.problems

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
        if not {"state.json", "index.json"} <= {*names} or any(Path(name).name != name for name in names):
            raise DAMAGED(file, what="lists files that are no checkpoint's")
        return manifest

    # -- writing ---------------------------------------------------------------------------------

    def begin(self, step: int, state: bytes) -> Path | None:
        """An empty directory for the files of a checkpoint, after what a killed save left was removed; None where the
        checkpoint of this step is there, verifies and has this state: a resumed run repeats its steps bit for bit.
        Raises OSError."""
        final = self._path(step)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if final.exists():
            if not self._examined(step, Share())[1] and (final / "state.json").read_bytes() == state:
                return None
            self._discard(final)
        temporary = temporary_beside(final)
        temporary.mkdir()
        return temporary

    def commit(self, step: int, directory: Path, files: list[dict[str, Any]], index: Index, state: bytes) -> Path:
        """Make the checkpoint of `step` of a directory that all ranks have filled with `files`.

        Raises CheckpointError where some of it is not there, OSError.
        """
        final, committed = self._path(step), self.steps()
        refuse_gaps(index, final)
        for entry in files:
            if (found := (directory / entry["name"]).stat().st_size) != entry["bytes"]:
                raise INCOMPLETE(final / entry["name"], found=found, wanted=entry["bytes"])
        (directory / "index.json").write_bytes(canonical_json(index))
        (directory / "state.json").write_bytes(state)
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "torch": torch.__version__,
            "parent": committed[-1] if committed else None,
            "files": [*files, *(synced(directory / name) for name in ("index.json", "state.json"))],
        }
        content = canonical_json(manifest)
        (directory / "manifest.json").write_bytes(content)
        fsync_file(directory / "manifest.json")
        fsync_dir(directory)
        publish(directory, final)
        # Last, by a rename of its own: where COMMIT is, everything it vouches for is on the disk.
        write_bytes_atomic(final / "COMMIT", f"{blake3_bytes(content)}\n".encode("ascii"))
        return final

    def purge(self, newest: int, damaged: Iterable[int]) -> None:
        """Called once `newest` is committed: drop all checkpoints older than the newest `keep` that are not damaged.
        Raises OSError."""
        bad, good = set(damaged), 1
        for step in reversed(self.steps()):
            if step == newest:
                continue
            if good >= self.keep:
                self._discard(self._path(step))
            elif step not in bad:
                good += 1

    def forget_after(self, step: int) -> None:
        """Drop the checkpoints of later steps: training goes another way from here. Raises OSError."""
        for later in self.steps():
            if later > step:
                self._discard(self._path(later))

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


def write_parts(directory: Path, rank: int, groups: Groups, rows: Iterable[Row]) -> tuple[list[dict[str, Any]], Index]:
    """Write a rank's parts, on the CPU, into files of its own and force them to disk; their entries in the manifest,
    and what they hold. Raises OSError, SafetensorError."""
    places = {(group, name): (whole, offsets, shape) for group, name, whole, offsets, shape, _ in rows}
    files: list[dict[str, Any]] = []
    index: Index = {}
    for group, tensors in groups.items():
        index[group] = {}
        for number, shard in enumerate(cut_by_size(tensors, FILE_BYTES)):
            file = directory / f"{group}-{rank:05d}-{number:05d}.safetensors"
            save_tensors(shard, file)
            files.append(synced(file))
            for name in shard:
                whole, offsets, shape = places[group, name]
                index[group][name] = {"shape": whole, "parts": [(file.name, offsets, shape)]}
    return files, index


def synced(file: Path) -> dict[str, Any]:
    """A file's entry in the manifest, after it was forced to disk. Raises OSError."""
    fsync_file(file)
    return {"name": file.name, "bytes": file.stat().st_size, "blake3": blake3_file(str(file))}


def _verify_file(file: Path, entry: Mapping[str, Any]) -> None:
    try:
        if not file.is_file():
            raise DAMAGED(file, what="is missing")
        if file.stat().st_size != entry["bytes"]:
            raise DAMAGED(file, what=f"has {file.stat().st_size} bytes instead of {entry['bytes']}")
        if blake3_file(str(file)) != entry["blake3"]:
            raise DAMAGED(file, what="does not have the content that was written (hash differs)")
    except OSError as error:
        raise DAMAGED(file, what=f"cannot be read ({error})") from error


def check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """Refuse a checkpoint of another run: one CheckpointError with every value that differs."""
    different = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if different:
        raise CheckpointError.of(
            OTHER_RUN.problem(where, key=key, old=found.get(key), new=expected.get(key)) for key in different
        )
