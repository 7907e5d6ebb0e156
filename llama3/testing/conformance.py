"""The base of all conformance classes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

from llama3.plugins.registry import discover
from llama3.plugins.specs import PluginSpec


class Conformance:
    """Set `plugin` (and `options`, where the defaults do not do) in a subclass called Test...; pytest does the rest.

    Methods called `test_...` are the checks. They take no fixtures, so that they also run without pytest.
    """

    family: ClassVar[str]
    plugin: str
    options: ClassVar[dict[str, Any]] = {}

    def build(self) -> Any:
        """A fresh object of the plugin."""
        return discover(strict=False).build(self.family, self.plugin, self.options)

    @property
    def spec(self) -> PluginSpec:
        """What the plugin registered."""
        return discover(strict=False).spec(self.family, self.plugin)

    @classmethod
    def missing_options(cls, plugin: str) -> list[str]:
        """Options without a default, which a subclass must give."""
        model = discover(strict=False).options_model(cls.family, plugin)
        fields = model.model_fields if model else {}
        return [name for name, info in fields.items() if info.is_required() and name not in cls.options]

    def test_listing_and_checking_options_needs_no_torch(self) -> None:
        program = (
            "import sys\n"
            "from llama3.plugins.registry import discover\n"
            f"discover(strict=False).options({self.family!r}, {self.plugin!r}, {self.options!r})\n"
            "assert 'torch' not in sys.modules, 'the plugin module or its options import torch'\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr.strip().splitlines()[-1]

    def test_options_survive_yaml(self) -> None:
        from llama3.config.yaml import dump, parse

        checked = discover(strict=False).options(self.family, self.plugin, self.options)
        if checked is not None:
            values = checked.model_dump(mode="json")
            again = parse(dump(values)).data if values else {}
            assert discover(strict=False).options(self.family, self.plugin, again) == checked
