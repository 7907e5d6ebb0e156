"""Under which terms a model was given out, as far as its files say. Torch-free."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Files that state the terms; they go wherever the weights go."""


def license_of(path: Path) -> str | None:
    """The license that a model's directory states: in llama3.json, in the front matter of its README.md, or as the
    first line of its LICENSE file. None where nothing is said."""
    return _facts(path / "llama3.json") or _front_matter(path / "README.md") or _first_line(path)


def terms_of(path: Path) -> list[Path]:
    """The files in a model's directory that state its terms."""
    folder = path if path.is_dir() else path.parent
    return sorted(file for pattern in TERMS for file in folder.glob(pattern) if file.is_file())


def copy_terms(source: Path, folder: Path) -> None:
    """Put the files that state the terms of the model at `source` into `folder`."""
    for terms in terms_of(source):
        shutil.copyfile(terms, folder / terms.name)


def _facts(path: Path) -> str | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    stated = facts.get("license") if isinstance(facts, dict) else None
    return stated if isinstance(stated, str) else None


def _front_matter(path: Path) -> str | None:
    """`license` in the YAML between two lines of dashes; "other" is explained by `license_name`."""
    try:
        head = path.read_text("utf-8").split("---\n", 2)
        facts = yaml.safe_load(head[1]) if len(head) == 3 and not head[0].strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(facts, dict):
        return None
    stated = facts.get("license_name") if facts.get("license") == "other" else facts.get("license")
    return stated if isinstance(stated, str) else None


def _first_line(folder: Path) -> str | None:
    for file in terms_of(folder):
        if file.name.upper().startswith(("LICENSE", "LICENCE")):
            lines = (line.strip() for line in file.read_text("utf-8", errors="replace").splitlines())
            return next((line for line in lines if line), None)
    return None
