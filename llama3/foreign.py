"""Files that somebody else made, read so that nothing in them can surprise: a regular file inside its folder, of
bounded size; JSON of bounded depth; values of the type that is meant. Torch-free.

A folder of a model comes from elsewhere. A link in it may name any file of this machine, a pipe or a device never
ends, and a value may be of any type. What is wrong is told in words; the caller knows the place and the declared error.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_TEXT = 1 << 24
"""Bytes of a text (a license, a chat template, a configuration): 16 MiB. Real ones have kilobytes."""
MAX_TABLE = 1 << 28
"""Bytes of a vocabulary or an index of tensors: 256 MiB. The largest vocabularies have 40."""
MAX_DEPTH = 64
"""Objects and lists within one another. Real files have ten levels."""
_SHOWN = 60


class UnusableFile(Exception):  # noqa: N818 - not an error of ours; the caller says whose file is meant
    """Why a file is not read, in words."""


def checked(path: Path) -> Path:
    """`path`, or what it is a link to, which must lie beside it. Raises UnusableFile; FileNotFoundError where nothing
    is there.

    Hugging Face's cache keeps the files of a snapshot in the folder `blobs` of the model: links lead there too.
    """
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UnusableFile(f"it is a link to {os.readlink(path)!r}, where nothing is") from None
        raise
    except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError
        raise UnusableFile(_said(error)) from None
    if path.is_symlink() and not any(real.is_relative_to(root) for root in _homes(path.parent)):
        raise UnusableFile("it is a link that leads out of its folder; put the file itself there")
    if not stat.S_ISREG(mode):
        raise UnusableFile("it is no regular file")
    return real


def _homes(folder: Path) -> Iterator[Path]:
    """Where links in a folder may lead."""
    real = folder.resolve()
    yield real
    if real.parent.name == "snapshots":
        yield real.parent.parent / "blobs"


def is_file(path: Path) -> bool:
    """Whether a file is there that can be read; a link out of the folder and a device are as good as nothing."""
    try:
        checked(path)
    except (UnusableFile, FileNotFoundError):
        return False
    return True


def read_bytes(path: Path, limit: int = MAX_TEXT) -> bytes:
    """Raises UnusableFile; FileNotFoundError where nothing is there."""
    try:
        with open(checked(path), "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableFile(_said(error)) from None
    if len(data) > limit:
        raise UnusableFile(f"it has over {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """Raises UnusableFile, also for what is no UTF-8; FileNotFoundError where nothing is there."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableFile(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None


def read_json(path: Path, limit: int = MAX_TEXT, *, once: bool = False) -> dict[str, Any]:
    """The one object that a file of JSON holds. `once`: no key may stand twice in an object, of which else the last
    counts. Raises UnusableFile; FileNotFoundError where nothing is there."""
    data = read_bytes(path, limit)
    try:
        value = json.loads(data, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise UnusableFile(f"its values lie over {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise UnusableFile(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UnusableFile(f"it does not hold a JSON object but {_kind(value)}")
    if _is_deep(value):
        raise UnusableFile(f"its values lie over {MAX_DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UnusableFile("it holds half of a character (a lone surrogate)") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, part in pairs:
        if key in value:
            raise UnusableFile(f"the key {key!r} is there twice")
        value[key] = part
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


class Fields:
    """Values of a JSON object, each asked for by its key and its type. What is of another type gets into `faults`, in
    words, and reads as some value: all mistakes of a file are told at once."""

    def __init__(self, raw: Mapping[str, Any], prefix: str = "", faults: list[str] | None = None) -> None:
        self.raw, self._prefix = raw, prefix
        self.faults: list[str] = [] if faults is None else faults

    def __contains__(self, key: str) -> bool:
        """Whether the key has a value; null is none."""
        return self.raw.get(key) is not None

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number, which must be there where there is no default. Null is none."""
        value = self.raw.get(key, default)
        return value if _is_whole(value) else self._fault(key, "a whole number", 1)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, which must be there where there is no default. Null is none."""
        value = self.raw.get(key, default)
        return float(value) if _is_number(value) else self._fault(key, "a number", 1.0)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; null is the default."""
        value = self.raw.get(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        return self._fault(key, "true or false", default)

    def text(self, key: str) -> str | None:
        """A string; null and nothing are None."""
        value = self.raw.get(key)
        return value if value is None or isinstance(value, str) else self._fault(key, "a text", None)

    def texts(self, key: str) -> list[str]:
        """One string or a list of them; null and nothing are none."""
        value = self.raw.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        right = all(isinstance(item, str) for item in values)
        return values if right else self._fault(key, "a text or a list of texts", [])

    def wholes(self, key: str) -> list[int]:
        """One whole number or a list of them; null and nothing are none."""
        value = self.raw.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return values if all(map(_is_whole, values)) else self._fault(key, "a whole number or a list of them", [])

    def object(self, key: str) -> Fields:
        """An object within; null and nothing are an empty one."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            value = self._fault(key, "an object", None)
        return Fields(value or {}, f"{self._prefix}{key}.", self.faults)

    def _fault(self, key: str, wanted: str, default: Any) -> Any:
        found = _kind(self.raw[key]) if key in self.raw else "missing"
        self.faults.append(f"{self._prefix}{key} is {found}, not {wanted}")
        return default


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _kind(value: Any) -> str:
    """A value as a reader recognises it, in few words."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = "a huge number" if isinstance(value, int) and value.bit_length() > 200 else json.dumps(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """The values of the lines that are not blank, each with its number from 1; None for what is no JSON."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
