"""Who may import whom, read from the source: a package imports only what stands before it, nothing imports plugins."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "errors",
    "full_disk",
    "fair_queue",
    "foreign",
    "_core",
    "plugins",
    "config",
    "model",
    "safety",
    "artifacts",
    "tokenizer",
    "checkpoints",
    "tasks",
    "data",
    "adapters",
    "inference",
    "training",
    "annotating",
    "posttraining",
    "evaluation",
    "alignment",
    "synthesis",
    "making",
    "redteam",
    "release",
    "guarding",
    "classifying",
    "quality",
    "algorithms",
    "data_kinds",
    "evaluators",
    "attackers",
    "exporters",
    "filters",
    "guards",
    "loggers",
    "parallelism",
    "quantization",
    "rewards",
    "sources",
    "cost",
    "scaling",
    "serving",
    "capabilities",
    "testing",
    "scaffold",
    "sized",
    "preflight",
    "execution",
    "given",
    "safe_rounds",
    "quality_rounds",
    "capability_rounds",
    "long_context",
    "outcome",
    "rounds",
    "sound_rounds",
    "checked_rounds",
    "herd",
    "recipe",
    "cli",
]
"""Lowest first. `presets` holds data only; `llama3/__init__` and `__main__` are the doors and may open all."""

MODULES = sorted((ROOT / "llama3").rglob("*.py")) + sorted((ROOT / "llama3_plugins").rglob("*.py"))
PACKAGES = [path.parent for path in MODULES if path.name == "__init__.py"]


def imports(path):
    """Absolute names of everything a module imports, wherever in it."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from llama3 import recipe` imports llama3.recipe; a class is no module and is cut off later.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(name):
    """The part of llama3 that a dotted name belongs to, or None for another package or the door itself."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "llama3" and len(pieces) > 1 and pieces[1] in ORDER else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    relative = path.relative_to(ROOT)
    names = list(imports(path))
    if relative.parts[0] == "llama3_plugins":
        private = [name for name in names if name.startswith("llama3.") and any(p[0] == "_" for p in name.split("."))]
        assert private == [], "plugins use the public API only"
        assert [name for name in names if part(name) in ("cli", "execution", "recipe")] == []
        return
    assert [name for name in names if name.split(".")[0] == "llama3_plugins"] == []
    if relative.parts[1] in ("__init__.py", "__main__.py"):
        return
    own = relative.parts[1].removesuffix(".py")
    if own == "presets":
        assert names == []
        return
    assert own in ORDER, f"{own} has no place in the order yet"
    above = [name for name in names if part(name) and ORDER.index(part(name)) > ORDER.index(own)]
    assert above == [], f"{own} stands before what it imports"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_say_what_they_are(package):
    assert ast.get_docstring(ast.parse((package / "__init__.py").read_text("utf-8")))


def test_packages_import_without_torch():
    names = [".".join(package.relative_to(ROOT).parts) for package in PACKAGES]
    program = (
        f"import importlib, sys\nfor name in {names}:\n"
        "    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_configs_and_presets_are_the_same_files():
    configs = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    links = {path.name: path for path in (ROOT / "llama3" / "presets").glob("*.yaml")}
    assert configs == set(links)
    for name, link in links.items():
        assert link.is_symlink() or sys.platform == "win32"
        assert link.read_bytes() == (ROOT / "configs" / name).read_bytes()
