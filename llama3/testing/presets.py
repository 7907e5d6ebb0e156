"""Conformance of presets: YAML files of a package, each a config that is valid as it stands. Torch-free."""

from __future__ import annotations

from importlib.resources import files as files_of
from importlib.resources.abc import Traversable

from llama3.config import load
from llama3.config.presets import Preset, presets
from llama3.plugins.registry import discover
from llama3.testing.conformance import Conformance


class PresetConformance(Conformance):
    """Checks of a package of presets."""

    family = "presets"

    def test_the_package_has_presets(self) -> None:
        assert self._files(), f"{self.spec.factory} has no file that ends in .yaml (are they part of the package?)"

    def test_every_preset_is_found_by_its_name(self) -> None:
        names = {preset.file.name for preset in self._presets().values()}
        assert {file.name for file in self._files()} <= names

    def test_every_preset_says_what_it_is_for(self) -> None:
        silent = [name for name, preset in self._presets().items() if not preset.summary]
        assert not silent, f"{', '.join(silent)}: the first line is no comment that says what it is for"

    def test_every_preset_is_a_valid_config(self) -> None:
        for name in self._presets():
            load(name)

    def build(self) -> list[Traversable]:
        """The files: a preset has no object of its own."""
        return self._files()

    def _files(self) -> list[Traversable]:
        return [file for file in files_of(self.spec.factory).iterdir() if file.name.endswith(".yaml")]

    def _presets(self) -> dict[str, Preset]:
        dist = discover(strict=False).offer(self.family, self.plugin).dist
        return {name: preset for name, preset in presets().items() if preset.dist == dist}
