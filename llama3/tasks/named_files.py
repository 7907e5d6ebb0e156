"""What plugins are told to read: a file or a model that changed is another request, under whatever name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llama3 import _core
from llama3.artifacts import Artifact
from llama3.artifacts.artifact import MANIFEST
from llama3.config.slot_types import Slot
from llama3.errors import LlamaError
from llama3.safety.policy import parse_policy

_NAMES = ("path", "card", "model")


def named_files(slots: Iterable[Slot]) -> dict[str, str]:
    """The hash of each file and model that stands under `path`, `card` or `model` in the options of the slots, or of
    slots within them. What is neither is left out: whoever opens it says so."""
    found = {path: _hash(Path(path)) for path in sorted({path for slot in slots for path in _paths(slot.options)})}
    return {path: known for path, known in found.items() if known is not None}


def guard_slots(policy: Mapping[str, Any]) -> list[Slot]:
    """The guards of a policy with their options. Raises ConfigError as `parse_policy`."""
    return [Slot(**{"name": leaf.guard, **leaf.options}) for _, leaf in parse_policy(policy).leaves()]


def _hash(path: Path) -> str | None:
    from llama3.checkpoints.adopt import content_hash

    if path.is_file():
        return _core.blake3_file(str(path))
    try:
        return Artifact(path).hash if (path / MANIFEST).is_file() else content_hash(path)
    except LlamaError:
        return None


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, Slot):
        value = value.options
    if isinstance(value, Mapping):
        for key, part in value.items():
            if key in _NAMES and isinstance(part, str):
                yield part
            else:
                yield from _paths(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
