"""The core names no plugin: what it uses is chosen by the config, whose defaults stand in two files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from llama3.plugins.loader import BUILT_IN
from llama3.plugins.registry import FAMILIES, discover

ROOT = Path(__file__).parents[2]
HOMES = [ROOT / "llama3" / "config" / name for name in ("schema.py", "scale_study.py")]
NAMES = {row.name for row in discover().list() if row.dist == BUILT_IN}
OTHER_THINGS = {
    "bits_per_byte": "a figure of report.json",
    "canaries": "a section of the config and a figure of a stage",
    "compressed_tensors": "a layout of weights",
    "csv": "a module of Python that answers may use",
    "dialogs": "a type of artifact",
    "fbgemm_fp8": "a layout of weights",
    "files": "a key of manifests",
    "gguf": "a layout of weights",
    "harmless": "a label of texts",
    "hf": "a layout of weights",
    "int8": "a type of codes in caches and of products",
    "judge": "a command, and what judges answers in a suite",
    "labels": "a file of a stage",
    "language": "a column of documents",
    "llama_guard": "a kind of guard that is trained",
    "model": "a section of the config",
    "multilingual": "a class of documents",
    "pairs": "a figure of a stage",
    "pass_rate": "a figure of report.json",
    "prompt_guard": "a kind of guard that is trained",
    "prompts": "a figure of a stage",
    "quality": "a section of the config, and a label of dialogs",
    "recall": "a figure of what is told apart",
    "rejection_sampling": "where a dialog comes from",
    "safety": "a section of the config",
    "sft": "a stage",
    "single": "a part of a chat template",
    "templates": "a folder of the scaffold",
    "tensor": "an argument of torch's functions",
    "tokens": "a figure of a stage",
    "tool_calls": "a field of OpenAI's messages",
    "tools": "a field of a request, and what a dialog may call",
    "toxicity": "a kind of guard that is trained",
}
"""Names of built-in plugins that are words of the core too."""
LOOKUPS = {
    "build",
    "spec",
    "offer",
    "options",
    "options_model",
    "identity",
    "data_kind",
    "data_kind_spec",
    "toy_examples",
}


def strings(tree: ast.Module) -> list[ast.Constant]:
    """All string literals but docstrings and other texts that stand alone."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    literals = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node for node in literals if id(node) not in alone]


def looked_up(tree: ast.Module) -> list[str]:
    """Names that are written where a plugin is looked up or chosen: `build("rewards", "x")`, `Slot(name="x")`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [a for a in node.args if isinstance(a, ast.Constant)] if called in LOOKUPS else []
            given += [k.value for k in node.keywords if k.arg == "name" and called.endswith("Slot")]
        elif isinstance(node, ast.Dict):
            given = [v for k, v in zip(node.keys, node.values, strict=True) if getattr(k, "value", "") == "name"]
        else:
            continue
        found += [a.value for a in given if isinstance(a, ast.Constant) and a.value in NAMES - set(FAMILIES)]
    return found


def named(text: str) -> set[str]:
    """Plugins that a literal is, or names within a text: there only such that are no word of English."""
    within = {word for word in re.findall(r"\w+", text) if "_" in word}
    return ({text} | within) & NAMES - set(OTHER_THINGS)


@pytest.mark.parametrize("path", sorted((ROOT / "llama3").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_of_the_core_names_a_plugin(path):
    if path in HOMES:
        return
    tree = ast.parse(path.read_text("utf-8"))
    assert [f"line {node.lineno}: {node.value!r}" for node in strings(tree) if named(node.value)] == []
    assert looked_up(tree) == []


@pytest.mark.parametrize(
    "source",
    [
        'registry.build("algorithms", "sft")',
        'Slot(name="dialogs")',
        'Slot.model_validate({"name": "hf"})',
        'TASKS = "jsonl_tasks"',
        'fix = "add the reward reward_model"',
    ],
)
def test_a_planted_name_is_found(source):
    tree = ast.parse(source)
    assert looked_up(tree) or any(named(node.value) for node in strings(tree))
