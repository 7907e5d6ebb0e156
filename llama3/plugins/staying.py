"""Wherever a plugin goes, the program stays where it was started: a config's relative paths are read there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_homes: list[str] = []
"""One for each plugin that is asked something now, in any thread: where the program was before the first of them."""


@contextmanager
def staying() -> Iterator[None]:
    """Puts the working directory back where a plugin that is asked meanwhile changes it (`os.chdir`)."""
    try:
        home = _homes[0]
    except IndexError:
        home = _here()
    _homes.append(home)
    try:
        yield
    finally:
        _homes.pop()
        if _here() != home:
            with suppress(OSError):  # it was removed
                os.chdir(home)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
