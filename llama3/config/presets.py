"""Presets: configs that ship with the package (`llama3/presets/*.yaml`) or with a plugin, known by name."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from llama3.errors import ConfigError, did_you_mean
from llama3.plugins.registry import discover

NO_PRESET = ConfigError.declare("L3-CFG-004", "no preset {name!r}", why="{near}", fix="llama3 config list")


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset: its name, the distribution that brought it, and its file."""

    name: str
    dist: str
    file: Traversable

    @property
    def text(self) -> str:
        """The file, comments included."""
        return self.file.read_text("utf-8")

    @property
    def summary(self) -> str:
        """The first comment line of the file that is not an editor's directive."""
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            if "yaml-language-server" not in line:
                return line.lstrip("# ").rstrip()
        return ""


def presets() -> dict[str, Preset]:
    """All presets by name; a plugin's come as `dist:name` and never hide a built-in. A broken package is left out."""
    found = {preset.name: preset for preset in _in_package("llama3.presets", "llama3")}
    for offer in discover().offers:
        if offer.spec.family != "presets":
            continue
        try:
            extra = _in_package(offer.spec.factory, offer.dist)
        except (Exception, SystemExit):  # of anybody's package
            continue
        found.update({f"{offer.dist}:{preset.name}": preset for preset in extra})
    return dict(sorted(found.items()))


def preset(name: str, *, where: str = "") -> Preset:
    """The preset called `name`. Raises ConfigError with near names."""
    known = presets()
    if name not in known:
        near = did_you_mean(name, known) or f"known: {', '.join(known)}"
        raise NO_PRESET(where, name=name, near=near)
    return known[name]


def _in_package(package: str, dist: str) -> list[Preset]:
    folder = importlib.resources.files(package)
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [Preset(file.name.removesuffix(".yaml"), dist, file) for file in files]
