"""Wherever a plugin goes, the program stays where it was started: a config's relative paths are read there. Its streams
and its recursion limit stay too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_homes: list[str] = []
"""One for each plugin that is asked something now, in any thread: where the program was before the first of them."""


@contextmanager
def staying() -> Iterator[None]:
    """Puts back what a plugin that is asked meanwhile takes away: the working directory (`os.chdir`), standard output
    or error (`sys.stdout = None`), a part of the recursion limit. It may wrap a stream, and raise the limit."""
    limit, stdout, stderr = sys.getrecursionlimit(), sys.stdout, sys.stderr
    try:
        home = _homes[0]
    except IndexError:
        home = _here()
    _homes.append(home)
    try:
        yield
    finally:
        if sys.getrecursionlimit() < limit:
            sys.setrecursionlimit(limit)
        sys.stdout, sys.stderr = sys.stdout or stdout, sys.stderr or stderr
        _homes.pop()
        if _here() != home:
            with suppress(OSError):  # it was removed
                os.chdir(home)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""
