"""A directory that a command writes: in the place of nothing, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama3.artifacts.files import atomic_directory, temporary_beside
from llama3.artifacts.leftovers import owned, remove_leftovers
from llama3.errors import ArtifactError, ConfigError, LlamaError
from llama3.full_disk import is_disk_full, why_full

NOT_NEW = ConfigError.declare("L3-CNV-001", "is {found}", fix="give a new directory; nothing is ever overwritten")

NO_ROOM = ArtifactError.declare(
    "L3-CNV-017",
    "it could not be written",
    why="{error}; nothing of it was kept",
    fix="give it room, and the same command again; what was there before is as it was",
)


def require_new(folder: Path) -> None:
    """Raise ConfigError where `folder` holds something."""
    if folder.is_symlink():
        raise NOT_NEW(folder, found="a link")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise NOT_NEW(folder, found="not empty" if folder.is_dir() else "a file")


@contextmanager
def new_directory(folder: Path) -> Iterator[Path]:
    """Yield a directory to fill, which on success takes the place of `folder`: nothing, or an empty directory.

    What a killed process left of an earlier attempt is removed first. Raises ArtifactError (L3-CNV-017), which names
    `folder`, where there is no room for it: what the system says of a full disk names no file.
    """
    folder = folder.absolute()
    if folder.exists():
        folder.rmdir()
    remove_leftovers(folder)
    temporary = temporary_beside(folder)
    try:
        with owned(temporary), atomic_directory(folder, temporary) as place:
            yield place
    except Exception as error:
        if isinstance(error, LlamaError) or not is_disk_full(error):
            raise
        raise NO_ROOM(folder, error=why_full(error)) from error
