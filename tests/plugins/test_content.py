"""A changed plugin is another one, whatever its version says."""

from __future__ import annotations

import importlib
import sys

import pytest

from llama3.config.schema import Config
from llama3.execution import plugins_of
from llama3.plugins.content import _hash
from llama3.plugins.registry import discover
from llama3.release.release import ReleaseOptions

GUARD = """
from llama3.plugins import GuardSpec, hookimpl

@hookimpl
def llama3_guards():
    return [GuardSpec(name="acme", factory="{factory}:Guard", stages=frozenset({{"input"}}))]
"""


@pytest.fixture
def look(site):
    """The identity of the guard `acme` as a new process sees it."""

    def identity():
        for cache in (discover.cache_clear, _hash.cache_clear, importlib.invalidate_caches):
            cache()
        for name in [name for name in sys.modules if name.partition(".")[0].startswith("acme")]:
            del sys.modules[name]
        options = ReleaseOptions.of(Config.model_validate({"safety": {"policy": {"input": "acme"}}}))
        (use,) = [use for use in plugins_of(options) if use.family == "guards"]
        return use

    yield identity
    discover.cache_clear()
    _hash.cache_clear()


def test_a_changed_module_is_another_plugin_of_the_same_version(site, look):
    site.add("acme", GUARD.format(factory="acme_guard"))
    (site.path / "acme_guard.py").write_text("class Guard: ...\n")
    first = look()
    assert look() == first
    (site.path / "acme_guard.py").write_text("class Guard: limit = 2\n")
    second = look()
    assert (second.version, second.dist) == (first.version, first.dist)
    assert second.code != first.code
    (site.path / "acme_guard.py").write_text("class Guard: ...\n")
    assert look() == first


@pytest.mark.parametrize("changed", ["inner/rules.py", "words.txt", "inner/new.py"])
def test_every_file_of_its_package_counts(site, look, changed):
    package = site.path / "acme_pack"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/guard.py", "inner/rules.py", "words.txt"):
        (package / name).write_text("")
    site.add("acme", GUARD.format(factory="acme_pack.inner.guard"))
    (package / "__pycache__").mkdir(exist_ok=True)
    first = look()
    (package / "__pycache__" / "x.pyc").write_text("x")
    (site.path / "other.py").write_text("x = 1")
    assert look() == first
    (package / changed).write_text("# changed")
    assert look().code != first.code


def test_below_a_namespace_only_its_own_package_counts(site, look):
    for name in ("one", "two"):
        (site.path / "acme_space" / name).mkdir(parents=True)
        (site.path / "acme_space" / name / "__init__.py").write_text("")
    site.add("acme", GUARD.format(factory="acme_space.one"))
    first = look()
    (site.path / "acme_space" / "two" / "__init__.py").write_text("x = 1")
    assert look() == first
    (site.path / "acme_space" / "one" / "__init__.py").write_text("x = 1")
    assert look() != first


def test_of_the_built_ins_the_version_counts():
    assert "code" not in discover().identity("guards", "prompt_injection")
