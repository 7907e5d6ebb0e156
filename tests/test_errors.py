"""docs/errors.md lists every problem code of the source. Refresh it with: python tests/test_errors.py"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from llama3 import errors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
CODE = re.compile(r"L3-[A-Z]+-\d{3}")
CLASSES = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.LlamaError)
}
HEAD = """# Errors

Every problem that this project reports carries one of these codes, the same on the command line, in Python and in the
server. A code keeps its meaning for ever. `…` stands for a value. Exit codes by class: LlamaError, DataError,
ArtifactError, CheckpointError 1; ConfigError 2; DoesNotFit 3; PluginError 4; GuardBlocked, GateFailed 5;
Interrupted 130. The page is generated from the source (`make format`).

| code | class | what | fix |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Use:
    """One place in the source that makes a problem with a code."""

    code: str
    file: str
    classes: frozenset[str]
    what: str
    fix: str


def uses():
    for folder in ("llama3", "llama3_plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from uses_in(path)


def uses_in(path):
    tree = ast.parse(path.read_text("utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    everywhere = raised(tree)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        for argument in arguments:
            if (
                isinstance(argument, ast.Constant)
                and isinstance(argument.value, str)
                and CODE.fullmatch(argument.value)
            ):
                scope = function_of(call, parents)
                classes = raised(scope) or everywhere
                what, fix = texts(call, scope)
                yield Use(argument.value, str(path.relative_to(ROOT)), frozenset(classes), what, fix)


def raised(tree):
    """Our exception classes that a piece of source constructs."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.id for func in calls if isinstance(func, ast.Name)} & CLASSES


def function_of(node, parents):
    while node in parents and not isinstance(node, ast.FunctionDef):
        node = parents[node]
    return node


def texts(call, scope):
    """Templates of `what` and `fix`: of Problem(code, where, what, why, fix), or of a helper that takes such words."""
    names = ("code", "where", "what", "why", "fix")
    found = {keyword.arg: keyword.value for keyword in call.keywords}
    if isinstance(call.func, ast.Name) and call.func.id == "Problem":
        found.update(zip(names, call.args, strict=False))
    else:
        words = [template(argument, scope) for argument in call.args]
        words = [word for word in words if word and not CODE.fullmatch(word)]
        return (words[0] if words else ""), (words[1] if len(words) > 1 else "")
    return template(found.get("what"), scope), template(found.get("fix"), scope)


def template(node, scope):
    """The text of an expression with `…` for what is known only at run time."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.Name):
        values = [assigned.value for assigned in ast.walk(scope) if assigns(assigned, node.id)]
        return next((template(value, scope) for value in values if not isinstance(value, ast.Name)), "")
    if isinstance(node, ast.IfExp):
        return template(node.body, scope) or template(node.orelse, scope)
    if isinstance(node, ast.BinOp):
        return template(node.left, scope) + template(node.right, scope)
    return ""


def assigns(node, name):
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def page():
    by_code = defaultdict(list)
    for use in uses():
        by_code[use.code].append(use)
    rows = []
    for code, group in sorted(by_code.items()):
        whats = unique(use.what for use in group)
        fixes = unique(use.fix for use in group)
        classes = sorted(set().union(*(use.classes for use in group))) or ["LlamaError"]
        cells = [code, " or ".join(classes), "; ".join(whats) or "see the message", "; ".join(fixes) or "-"]
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n")
    return HEAD + "".join(rows)


def unique(words):
    return list(dict.fromkeys(word for word in words if word))


def test_a_code_means_one_thing():
    """Files may share a code only for the same words."""
    files, whats = defaultdict(set), defaultdict(set)
    for use in uses():
        files[use.code].add(use.file)
        whats[use.code].add(use.what)
    shared = {code: sorted(places) for code, places in files.items() if len(places) > 1 and len(whats[code]) > 1}
    assert shared == {}


def test_the_page_is_up_to_date():
    listed = set(CODE.findall(PAGE.read_text("utf-8")))
    used = {use.code for use in uses()}
    assert used - listed == set(), "run: python tests/test_errors.py"
    assert listed - used == set(), "run: python tests/test_errors.py"
    assert PAGE.read_text("utf-8") == page(), "run: python tests/test_errors.py"


def test_codes_are_found_where_they_are_made(tmp_path, monkeypatch):
    """The scanner itself: a literal, a variable and a helper."""
    source = """
def f(x):
    what = f"no {x}"
    raise ConfigError(Problem("L3-AAA-001", "w", what, fix="do it"))

def g():
    return helper("L3-AAA-002", "path", f"{1} is odd")
"""
    (tmp_path / "m.py").write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    first, second = sorted(uses_in(tmp_path / "m.py"), key=lambda use: use.code)
    assert (first.code, first.classes, first.what, first.fix) == ("L3-AAA-001", {"ConfigError"}, "no …", "do it")
    assert second.code == "L3-AAA-002"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len({use.code for use in uses()})} codes")
