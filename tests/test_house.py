"""What a reader would stumble over: modules that import each other, one name for two things, files that hold two ideas.

Imports inside functions and under TYPE_CHECKING count: a circle that is hidden is a circle.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from test_imports import MODULES, ROOT, imports

LONGEST = 600
"""Lines of a file that holds one idea."""
STORY = 300
"""Lines of the recipe, which is read in one sitting."""


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def known():
    return {name_of(path): path for path in MODULES}


def graph():
    """Each module (packages themselves left out) with the modules that it imports."""
    plain = {name: path for name, path in known().items() if path.name != "__init__.py"}
    return {name: {found for found in map(module_of, imports(path)) if found in plain} - {name}
            for name, path in plain.items()}  # fmt: skip


def module_of(name):
    """`a.b` of a name `a.b.C`, if `a.b` is a module and `a.b.C` is none."""
    return name if name in known() else name.rpartition(".")[0]


def circle(edges):
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other():
    assert circle(graph()) is None


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) is not None
    hidden = graph()
    assert {"llama3.training.loop", "llama3.model.score"} <= hidden.keys()
    assert "llama3.model.score" in hidden["llama3.training.loop"]


def test_a_public_class_name_means_one_thing():
    owners = defaultdict(list)
    for name, path in known().items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and name.startswith("llama3."):
                owners[node.name].append(name)
    assert {cls: where for cls, where in owners.items() if len(where) > 1} == {}


@pytest.mark.parametrize("suffix", ["py", "rs"])
def test_no_file_holds_two_ideas(suffix):
    folders = [ROOT / "llama3", ROOT / "llama3_plugins", ROOT / "core-rs" / "src"]
    files = [path for folder in folders for path in folder.rglob(f"*.{suffix}")]
    assert files
    assert {str(p): n for p in files if (n := len(p.read_text("utf-8").splitlines())) > LONGEST} == {}


def test_the_recipe_is_read_in_one_sitting():
    assert len((ROOT / "llama3" / "recipe.py").read_text("utf-8").splitlines()) <= STORY
