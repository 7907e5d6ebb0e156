"""What the files hold that plugins are told to read: a file that changed is another request, under whatever name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.config.slot_types import Slot


def named_files(slots: Iterable[Slot]) -> dict[str, str]:
    """The hash of each file that stands under `path` or `card` in the options of the slots, or of slots within them."""
    paths = sorted({path for slot in slots for path in _paths(slot.options) if Path(path).is_file()})
    return {path: _core.blake3_file(path) for path in paths}


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, Slot):
        value = value.options
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in ("path", "card") and isinstance(part, str):
                yield part
            else:
                yield from _paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
