"""docs/api.md and docs/hooks.md are what the source says, and name every hook and every public name."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import started

from llama3.plugins import specs
from llama3.plugins.hookspecs import OBSERVERS, REGISTRATION
from llama3.testing import conformance_of

ROOT = Path(__file__).parents[1]
API = (ROOT / "docs" / "api.md").read_text("utf-8")
HOOKS = (ROOT / "docs" / "hooks.md").read_text("utf-8")
MODULES = re.findall(r"^- \[`([\w.]+)`\]", API, re.MULTILINE)


def test_the_pages_are_up_to_date():
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), "--check"]
    done = started.run(command)
    assert done.returncode == 0, f"{done.stdout}run: make docs{done.stderr}"


def section(page: str, title: str) -> str:
    """What stands under a heading of the third level."""
    found = re.search(rf"^### `{title}`\n(.*?)(?=^##)", page + "## ", re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


@pytest.mark.parametrize("hook", REGISTRATION)
def test_a_registration_hook_is_told_of(hook):
    text, spec = section(HOOKS, hook), REGISTRATION[hook]
    assert f"def {hook}() -> list[{spec.__name__}]" in text
    assert "On failure:" in text
    assert f"`llama3.testing.{conformance_of(spec.family).__name__}`" in text
    assert f"--family {spec.family}`" in text
    fields = {name for name in spec.__dataclass_fields__ if name not in specs.PluginSpec.__dataclass_fields__}
    assert all(f"| `{name}: " in text for name in fields)
    for module, name in re.findall(r"`(llama3\.[a-z_.]+)\.([A-Z]\w+)`", text):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("hook", OBSERVERS)
def test_an_observer_is_told_of(hook):
    assert f"def {hook}(" in section(HOOKS, hook)


def test_every_field_says_what_it_means():
    rows = re.findall(r"^\| `(\w+): [^|]*(?:\\\|[^|]*)*` \|(.*)\|$", HOOKS, re.MULTILINE)
    assert len(rows) > 20
    assert [name for name, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_is_told_of(module):
    text = re.search(rf"^## `{re.escape(module)}`\n(.*?)(?=^## |\Z)", API, re.MULTILINE | re.DOTALL)[1]
    for name in getattr(importlib.import_module(module), "__all__", ()):
        assert name.startswith("__") or f"`{name}`" in text, f"{module}.{name}"


def test_every_family_is_in_the_reference():
    families = {spec.family for spec in REGISTRATION.values()} - {"commands", "presets"}
    assert {f"llama3.{family}" for family in families} <= set(MODULES)
