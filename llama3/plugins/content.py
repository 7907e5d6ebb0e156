"""What the code of a plugin is: a hash of its files, so that a changed plugin is another one whatever its version says.

An editable or local plugin changes under the same version; so does one that somebody edits where it is installed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from llama3.plugins.loader import Offer

SUFFIXES = (".py", ".pyx", ".so", ".pyd", ".json", ".jinja", ".toml", ".txt", ".yaml", ".yml")
"""Of files that may decide what a plugin does."""


def content_of(offer: Offer) -> str:
    """A hash of the packages and modules that hold the plugin's factory, its options and its entry point."""
    targets = (offer.spec.factory, offer.spec.options or "", offer.module)
    return _hash(tuple(sorted({target.partition(":")[0] for target in targets} - {""})))


@functools.cache
def _hash(modules: tuple[str, ...]) -> str:
    roots = sorted({root for module in modules for root in _roots(module)})
    told = hashlib.blake2b(digest_size=16)
    for name, file in sorted({row for root in roots for row in _files(root)}):
        told.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        told.update(file.read_bytes())
    return told.hexdigest()


def _roots(module: str) -> Iterator[Path]:
    """The top package or module of a dotted name; below a namespace, which several share, the first that is none.
    Nothing that is looked for is imported but the packages above it."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        try:
            found = importlib.util.find_spec(".".join(parts[:depth]))
        except (Exception, SystemExit):  # what it is resolved to will fail by its own name
            return
        if found is None:
            return
        if found.origin and found.has_location:
            origin = Path(found.origin)
            yield origin.parent if origin.stem == "__init__" else origin
            return


def _files(root: Path) -> Iterable[tuple[str, Path]]:
    if root.is_file():
        return [(root.name, root)]
    inside = (path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return [(path.relative_to(root.parent).as_posix(), path) for path in inside]
