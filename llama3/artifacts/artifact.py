"""Artifacts: a directory of payload files and a `manifest.json` that says what they are and where they
come from.

The identity of an artifact is the blake3 of its canonical manifest without `created`; the manifest holds
the hash of every file and the identity of every parent, so one hash stands for the bytes and their whole
history. It stands outside the manifest too, in `COMMIT`, which is written last: what changes a figure of a manifest
does not go unseen. Whenever an artifact is opened, its identity, its set of files and their sizes are checked: what
the manifest does not list is never read. Hashes are checked when the payload is first used (`path`).
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from llama3 import _core
from llama3.artifacts.files import canonical_json, write_bytes_atomic, write_json_atomic
from llama3.errors import ArtifactError, Problem
from llama3.foreign import MAX_TABLE, UnusableFile, read_json, read_text

_REBUILD = "restore the {part}, or remove the artifact and run the same command again: it is rebuilt"
NO_ARTIFACT = ArtifactError.declare(
    "L3-ART-001",
    "not an artifact",
    why="there is {found}",
    fix="give the folder of a release or of another artifact (runs/NAME/artifacts/release); "
    "`llama3 lineage` takes that of a run too (runs/NAME)",
)
BAD_MANIFEST = ArtifactError.declare(
    "L3-ART-002", "the manifest is damaged", why="{error}", fix=_REBUILD.format(part="manifest")
)
NO_FILE = ArtifactError.declare(
    "L3-ART-003", "the file is missing", why="the manifest lists it", fix=_REBUILD.format(part="file")
)
OTHER_SIZE = ArtifactError.declare(
    "L3-ART-004", "the file has {size} bytes", why="the manifest says {listed}", fix=_REBUILD.format(part="file")
)
OTHER_CONTENT = ArtifactError.declare(
    "L3-ART-005",
    "the file's content changed",
    why="its blake3 is not the manifest's",
    fix=_REBUILD.format(part="file"),
)
UNSEALED = ArtifactError.declare(
    "L3-ART-013",
    "the manifest is not the one that was written",
    why="its hash is {found}, {commit} says {sealed}",
    fix=_REBUILD.format(part="manifest"),
)
STRAY = ArtifactError.declare(
    "L3-ART-014",
    "the {kind} is not the artifact's",
    why="the manifest does not list it",
    fix="move it out of the folder of the artifact; nothing is read but what the stage wrote",
)
NOT_LISTED = ArtifactError.declare("L3-ART-006", "the {type} has no file {name!r}", why="it has: {listed}")
OTHER_TYPE = ArtifactError.declare("L3-ART-007", "this is a {type}, not a {kind}", fix="give the directory of a {kind}")
NO_PLAIN_FILE = ArtifactError.declare("L3-ART-008", "an artifact holds plain files and directories only")
EMPTY = ArtifactError.declare("L3-ART-012", "the stage wrote no file")
BAD_METRIC = ArtifactError.declare("L3-ART-011", "a metric is not a finite number, text, list or dict", why="{error}")

MANIFEST = "manifest.json"
COMMIT = "COMMIT"
TYPES = frozenset(
    {
        "checkpoint",
        "corpus",
        "dialogs",
        "forecast",
        "policy",
        "preferences",
        "release",
        "report",
        "shards",
        "texts",
        "tokenizer",
    }
)
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _type(name: str) -> str:
    if name not in TYPES:
        raise ValueError(f"unknown artifact type {name!r}; known: {', '.join(sorted(TYPES))}")
    return name


def _inside(path: str) -> str:
    """A payload path: relative, normal, within the artifact."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\0" in path:
        raise ValueError(f"{path!r} does not stay inside the artifact")
    return path


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """One payload file."""

    path: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    blake3: Hash


class Parent(_Part):
    """An input of the stage: the role it played and the identity of the artifact."""

    role: str
    hash: Hash


class PluginUse(_Part):
    """A plugin that took part, and the distribution it came from. `code` is a hash of the files of a third party's."""

    family: str
    name: str
    dist: str
    version: str
    code: str | None = None


class Code(_Part):
    """The code that made an artifact: package version, hash of the Rust extension, git commit of a
    checkout.
    """

    version: str
    core_build: str
    git: str | None = None


class StageRequest(_Part):
    """Everything that decides a stage's output but the code. Equal requests may share one artifact."""

    stage: str
    type: Annotated[str, AfterValidator(_type)]
    parents: list[Parent]
    config_hash: Hash
    plugins: list[PluginUse]

    @property
    def hash(self) -> str:
        """blake3 of the request in canonical order, lower-case hex."""
        asked = self.model_dump(mode="json")
        for name in ("parents", "plugins"):
            asked[name].sort(key=canonical_json)
        return _core.blake3_bytes(canonical_json(asked))


class Manifest(_Part):
    """Contents of `manifest.json` (schema 1). Everything but `created` follows from inputs, options and
    code.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: Annotated[str, AfterValidator(_type)]
    schema_: Literal[1] = Field(alias="schema")
    stage: str
    files: list[FileEntry]
    parents: list[Parent]
    config_hash: Hash
    code: Code
    plugins: list[PluginUse]
    created: str
    metrics: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def hash(self) -> str:
        """Identity: blake3 of the canonical manifest without `created`, lower-case hex."""
        content = self.to_json()
        del content["created"]
        return _core.blake3_bytes(canonical_json(content))

    @property
    def request(self) -> StageRequest:
        """What was asked for."""
        return StageRequest(
            stage=self.stage,
            type=self.type,
            parents=self.parents,
            config_hash=self.config_hash,
            plugins=self.plugins,
        )


class Artifact:
    """A finished artifact on disk. Opening it reads the manifest and checks that it is the one that was sealed, and
    that its files, and no others, are there with their sizes.

    Raises ArtifactError when the directory, its manifest or a file is not what it should be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.location = Path(path).resolve()
        """The directory, unverified: for messages and listings. Read payload through `path`."""
        self.manifest = read_manifest(self.location)
        _check_seal(self.location, self.manifest)
        problems = [problem for entry in self.manifest.files for problem in self._size_problem(entry)]
        problems += [STRAY.problem(path, kind=_kind(path)) for path in _strays(self.location, self.manifest)]
        if problems:
            raise ArtifactError.of(problems)
        self._verified = False

    @property
    def type(self) -> str:
        """One of `TYPES`."""
        return self.manifest.type

    @property
    def metrics(self) -> dict[str, Any]:
        """The deterministic measurements that the stage recorded."""
        return self.manifest.metrics

    @cached_property
    def hash(self) -> str:
        """Identity, 64 lower-case hex digits."""
        return self.manifest.hash

    @property
    def path(self) -> Path:
        """The directory, its payload verified on first use. Raises ArtifactError (L3-ART-005) on damage."""
        if not self._verified:
            self.verify()
        return self.location

    def file(self, name: str) -> Path:
        """A payload file that the manifest vouches for. Raises ArtifactError (L3-ART-006) for any other."""
        if all(entry.path != name for entry in self.manifest.files):
            listed = [entry.path for entry in self.manifest.files[:8]]
            raise NOT_LISTED(self.location, type=self.type, name=name, listed=listed)
        return self.path / name

    def verify(self) -> None:
        """Hash every file against the manifest, now. Raises ArtifactError (L3-ART-005) naming each damaged
        file.
        """
        problems = [problem for entry in self.manifest.files for problem in self._hash_problem(entry)]
        if problems:
            raise ArtifactError.of(problems)
        self._verified = True

    def expect(self, kind: str) -> Artifact:
        """Itself, if it is of type `kind`. Raises ArtifactError (L3-ART-007)."""
        if self.type == kind:
            return self
        raise OTHER_TYPE(self.location, type=self.type, kind=kind)

    def _size_problem(self, entry: FileEntry) -> list[Problem]:
        path = self.location / entry.path
        if path.is_symlink() or not path.is_file():
            return [NO_FILE.problem(path)]
        size = path.stat().st_size
        return [] if size == entry.bytes else [OTHER_SIZE.problem(path, size=size, listed=entry.bytes)]

    def _hash_problem(self, entry: FileEntry) -> list[Problem]:
        changed = self._size_problem(entry)
        if changed:
            return changed
        path = self.location / entry.path
        return [] if _core.blake3_file(str(path)) == entry.blake3 else [OTHER_CONTENT.problem(path)]

    def __repr__(self) -> str:
        return f"<{self.type} {self.hash[:12]} at {self.location}>"


def sealed_hash(location: Path) -> str:
    """The identity that `COMMIT` vouches for, or "nothing"."""
    try:
        return read_text(location / COMMIT).strip()[:64] or "nothing"
    except (OSError, UnusableFile):
        return "nothing"


def _check_seal(location: Path, manifest: Manifest) -> None:
    sealed = sealed_hash(location)
    if manifest.hash != sealed:
        raise UNSEALED(location / MANIFEST, found=manifest.hash[:12], commit=COMMIT, sealed=sealed[:12])


def strays_of(location: Path) -> list[Path]:
    """What lies in an artifact's directory and is not the artifact's: files that no stage wrote, links, devices."""
    return _strays(location, read_manifest(location))


def _strays(location: Path, manifest: Manifest) -> list[Path]:
    listed = {entry.path for entry in manifest.files} | {MANIFEST, COMMIT}
    found = []
    for folder, inner, names in os.walk(location):
        paths = [Path(folder, name) for name in names]
        found += [path for path in paths if path.relative_to(location).as_posix() not in listed]
        found += [path for name in inner if (path := Path(folder, name)).is_symlink()]
    return sorted(found)


def _kind(path: Path) -> str:
    return "link" if path.is_symlink() else "file"


def artifact_around(path: str | os.PathLike[str]) -> Artifact | None:
    """The artifact that `path` is or lies in, its payload verified; None for what is in none.

    Raises ArtifactError where it is damaged, or where `path` is not one of its own files or folders.
    """
    given = Path(path).resolve()
    folder = next((place for place in (given, *given.parents) if _claims_to_be_one(place)), None)
    if folder is None:
        return None
    artifact = Artifact(folder)
    artifact.verify()
    return artifact


def _claims_to_be_one(folder: Path) -> bool:
    """Whether a folder has what only artifacts have. Others have a manifest.json too."""
    try:
        manifest = read_json(folder / MANIFEST, MAX_TABLE)
    except (OSError, UnusableFile):
        return (folder / COMMIT).is_file() and (folder / MANIFEST).is_file()
    return {"config_hash", "parents", "files"} <= manifest.keys()


def read_manifest(location: Path) -> Manifest:
    """What stands in a manifest, whether or not it is sealed. Raises ArtifactError."""
    path = location / MANIFEST
    if not location.is_dir():
        raise NO_ARTIFACT(location, found="a file of that name" if location.exists() else "no such directory")
    try:
        return Manifest.model_validate(read_json(path, MAX_TABLE), strict=True)
    except FileNotFoundError:
        raise NO_ARTIFACT(location, found=f"no {MANIFEST}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BAD_MANIFEST(path, error=f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except UnusableFile as error:
        raise BAD_MANIFEST(path, error=error) from None


def write_manifest(folder: Path, request: StageRequest, code: Code, metrics: dict[str, Any]) -> Manifest:
    """Hash the payload in `folder`, write its manifest beside it, and last the seal on that.

    Raises ArtifactError when the payload is empty or holds anything but plain files and directories, or when
    a metric is not a JSON value.
    """
    try:
        # Through JSON, so that what is hashed now is what a reader will parse (tuples become lists).
        metrics = json.loads(json.dumps(metrics, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BAD_METRIC(f"stage {request.stage}", error=error) from error
    content = {
        "type": request.type,
        "schema": 1,
        "stage": request.stage,
        "files": [_entry(folder, name).model_dump() for name in _payload(folder)],
        "parents": sorted((parent.model_dump() for parent in request.parents), key=canonical_json),
        "config_hash": request.config_hash,
        "code": code.model_dump(),
        "plugins": sorted((use.model_dump() for use in request.plugins), key=canonical_json),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
    }
    write_json_atomic(folder / MANIFEST, content)
    manifest = Manifest.model_validate(content, strict=True)
    write_bytes_atomic(folder / COMMIT, f"{manifest.hash}\n".encode("ascii"))
    return manifest


def _entry(folder: Path, name: str) -> FileEntry:
    path = folder / name
    return FileEntry(path=name, bytes=path.stat().st_size, blake3=_core.blake3_file(str(path)))


def _payload(folder: Path) -> list[str]:
    """Relative POSIX paths of the payload files, sorted."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or name in (MANIFEST, COMMIT):
            raise NO_PLAIN_FILE(path)
        if path.is_file():
            names.append(name)
    if not names:
        raise EMPTY(folder)
    return sorted(names)
