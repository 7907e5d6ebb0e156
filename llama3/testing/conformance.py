"""The base of all conformance classes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from llama3.plugins.registry import discover
from llama3.plugins.specs import PluginSpec


class Conformance:
    """Set `plugin` (and `options`, where the defaults do not do) in a subclass called Test...; pytest does the rest.

    Methods called `test_...` are the checks. They take no fixtures, so that they also run without pytest.
    """

    family: ClassVar[str]
    plugin: str
    options: dict[str, Any] = {}  # noqa: RUF012 - a subclass names its own

    def build(self) -> Any:
        """A fresh object of the plugin."""
        return discover(strict=False).build(self.family, self.plugin, self.options)

    @property
    def spec(self) -> PluginSpec:
        """What the plugin registered."""
        return discover(strict=False).spec(self.family, self.plugin)

    @classmethod
    def missing_options(cls, plugin: str, given: Mapping[str, Any]) -> list[str]:
        """Options without a default that are not `given`."""
        model = discover(strict=False).options_model(cls.family, plugin)
        fields = model.model_fields if model else {}
        return [name for name, info in fields.items() if info.is_required() and name not in given]

    def test_listing_and_checking_options_needs_no_torch(self) -> None:
        program = (
            "import sys\n"
            "from llama3.plugins.registry import discover\n"
            f"discover(strict=False).options({self.family!r}, {self.plugin!r}, {self.options!r})\n"
            "assert 'torch' not in sys.modules, 'the plugin module or its options import torch'\n"
        )
        run_python(program)

    def test_options_survive_yaml(self) -> None:
        from llama3.config.yaml import dump, parse

        checked = discover(strict=False).options(self.family, self.plugin, self.options)
        if checked is not None:
            values = checked.model_dump(mode="json")
            again = parse(dump(values)).data if values else {}
            assert discover(strict=False).options(self.family, self.plugin, again) == checked


def child_environment() -> dict[str, str]:
    """The environment of a process that finds the same plugins as this one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run_python(program: str) -> None:
    """Run a program in a Python of its own. Raises AssertionError with the last line of what it said."""
    command, environment = [sys.executable, "-c", program], child_environment()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    assert done.returncode == 0, said[-1]
