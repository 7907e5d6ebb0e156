"""A plugin package from the template of its family."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from llama3.errors import ConfigError, did_you_mean
from llama3.plugins.loader import canonical
from llama3.plugins.registry import FAMILIES
from llama3.testing import conformance_of

NO_NAME = ConfigError.declare(
    "L3-NEW-001", "{name!r} is no name of a plugin", fix="use a-z, 0-9, _ and -, beginning with a letter"
)
NO_FAMILY = ConfigError.declare("L3-NEW-002", "no such family {family!r}", why="{near}")
IN_THE_WAY = ConfigError.declare(
    "L3-NEW-003", "is there already", why="nothing is overwritten", fix="choose another name or --out"
)

TEMPLATES = files("llama3.scaffold") / "templates"
FILE = re.compile(r"^=== (\S+)\n", re.MULTILINE)
"""What a template's files begin with; every name is relative to the package's folder."""


def new_package(name: str, family: str, parent: Path) -> list[Path]:
    """Write `llama3-<name>` into `parent` and return its files.

    Raises ConfigError for a bad name, an unknown family, and where such a folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise NO_NAME("NAME", name=name)
    if family not in FAMILIES:
        raise NO_FAMILY("--family", family=family, near=did_you_mean(family, FAMILIES) or ", ".join(FAMILIES))
    folder = parent / f"llama3-{canonical(name)}"
    if folder.exists():
        raise IN_THE_WAY(folder)
    written = []
    for path, text in _files(name, family).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        written.append(folder / path)
    return written


def _files(name: str, family: str) -> dict[str, str]:
    """Path in the package to content: what all families share, then the family's own."""
    package = f"llama3_{re.sub(r'[-_]+', '_', name)}"
    words = {
        "name": name,
        "Name": "".join(part.capitalize() for part in re.split(r"[-_]+", name)),
        "dist": f"llama3-{canonical(name)}",
        "package": package,
        "family": family,
        "Kit": conformance_of(family).__name__,
        "more": f', "{package}.configs"' if family == "presets" else "",
        "data": '\n\n[tool.setuptools.package-data]\n"*" = ["*.yaml"]' if family == "presets" else "",
    }
    found = {}
    for template in ("package", family):
        pieces = FILE.split((TEMPLATES / f"{template}.txt").read_text("utf-8"))[1:]
        for path, text in zip(pieces[::2], pieces[1::2], strict=True):
            found[Template(path).substitute(words)] = Template(text).substitute(words)
    return found
