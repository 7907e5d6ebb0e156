"""Under which terms a model was given out, as far as its files say. Torch-free."""

from __future__ import annotations

import re
from pathlib import Path

from llama3.artifacts.files import write_bytes_atomic
from llama3.foreign import UnusableFile, is_file, read_bytes, read_json, read_text

TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files that state the terms; they go wherever the weights go."""


def license_of(path: Path) -> str | None:
    """The license that a model's directory states: in llama3.json, in the front matter of its README.md, or as the
    first line of its LICENSE file. None where nothing is said."""
    return _facts(path / "llama3.json") or _front_matter(path / "README.md") or _first_line(path)


def terms_of(path: Path) -> list[Path]:
    """The files in a model's directory that state its terms."""
    folder = path if path.is_dir() else path.parent
    return sorted(file for pattern in TERMS for file in folder.glob(pattern) if is_file(file))


def copy_terms(source: Path, folder: Path) -> None:
    """Put the files that state the terms of the model at `source` into `folder`."""
    for terms in terms_of(source):
        write_bytes_atomic(folder / terms.name, read_bytes(terms))


def _facts(path: Path) -> str | None:
    try:
        stated = read_json(path).get("license")
    except (OSError, UnusableFile):
        return None
    return stated if isinstance(stated, str) else None


def _front_matter(path: Path) -> str | None:
    """`license` between two lines of dashes; "other" is explained by `license_name`. Read line by line: a card is
    somebody else's, and of all its YAML two plain values are wanted."""
    try:
        before, *between = read_text(path).split("---\n", 2)
    except (OSError, UnusableFile):
        return None
    if len(between) < 2 or before.strip():
        return None
    lines = re.findall(r"^(license|license_name):[ \t]*([^\s\[{&*!|>#][^\n]*)$", between[0], re.MULTILINE)
    facts = {key: value.split(" #")[0].strip().strip("\"'") for key, value in lines}
    stated = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
    return stated or None


def _first_line(folder: Path) -> str | None:
    for file in terms_of(folder):
        if file.name.upper().startswith(("LICENSE", "LICENCE")):
            lines = (line.strip() for line in read_bytes(file).decode("utf-8", "replace").splitlines())
            return next((line for line in lines if line), None)
    return None
