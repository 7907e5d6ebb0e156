"""Fake distributions: a module and its dist-info in a temporary folder on sys.path."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap

import pytest

from llama3.plugins.loader import GROUP, load_plugins
from llama3.plugins.registry import Registry


class Site:
    """A folder of fake distributions."""

    def __init__(self, path):
        self.path = path

    def add(self, dist, source=None, *, version="1.0", entry="main", module=None, metadata=True):
        """Write a distribution with one plugin module; `source=None` points the entry at a missing module."""
        module = module or dist.replace("-", "_")
        if source is not None:
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        info = self.path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        entries = info / "entry_points.txt"
        old = entries.read_text() if entries.exists() else f"[{GROUP}]\n"
        entries.write_text(f"{old}{entry} = {module}\n")

    def entries(self):
        found = []
        for dist in importlib.metadata.distributions(path=[str(self.path)]):
            found.extend(entry for entry in dist.entry_points if entry.group == GROUP)
        return found

    def load(self, environ=None):
        return load_plugins(self.entries(), environ)

    def registry(self, environ=None, **options):
        return Registry(self.load(environ), **options)


@pytest.fixture
def site(tmp_path, monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


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
