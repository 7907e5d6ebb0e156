"""A sound fake plugin, to stand beside broken ones."""

from __future__ import annotations

import pytest

GOOD = """
from llama3.plugins import AlgorithmSpec, hookimpl

@hookimpl
def llama3_algorithms():
    targets = dict(factory="{module}_impl:Thing", options="{module}_options:Options")
    return [AlgorithmSpec(name="{name}", data="pairs", **targets)]
"""


@pytest.fixture
def good(site):
    """Write a sound distribution that offers one algorithm."""

    def write(dist, name="simpo", *, options="beta: float = 2.0", factory="return {'options': options}"):
        module = "fake_built_in" if dist == "llama3" else dist.replace("-", "_")
        site.add(dist, GOOD.format(name=name, module=module), module=module)
        (site.path / f"{module}_options.py").write_text(
            "from pydantic import BaseModel, ConfigDict\n\nclass Options(BaseModel):\n"
            f"    model_config = ConfigDict(extra='forbid')\n    {options}\n"
        )
        (site.path / f"{module}_impl.py").write_text(f"def Thing(options):\n    {factory}\n")

    return write
