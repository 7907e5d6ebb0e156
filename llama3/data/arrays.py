"""Named arrays in a file or a message (NumPy's `.npz`): numbers, and JSON as bytes; nothing that could be code."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises OSError."""
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # no name is an option


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Of a file all arrays, or these."""
    with np.load(path) as found:
        return {name: found[name] for name in names or found.files}


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """As a message."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpacked(message: bytes) -> dict[str, np.ndarray]:
    """What `packed` packed. Raises ValueError, OSError or KeyError for anything else."""
    with np.load(io.BytesIO(message)) as found:
        return {name: found[name] for name in found.files}


def as_json(value: Any) -> np.ndarray:
    """JSON as uint8."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def from_json(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())
