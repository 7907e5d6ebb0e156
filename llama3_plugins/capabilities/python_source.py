"""What can be known of a Python program without running it: syntax, names that nothing defines, usual slips; and which
functions of a document stand on their own."""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterator

KNOWN = {*dir(builtins), "__name__", "__file__", "__doc__", "__class__"}
MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def parsed(code: str) -> ast.Module | str:
    """The tree of a program, or why it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, brackets without end
        return str(error) or type(error).__name__


def faults(code: str) -> list[str]:
    """What a linter would say of a program, a line each; empty where nothing is wrong."""
    tree = parsed(code)
    if isinstance(tree, str):
        return [f"syntax error: {tree}"]
    try:
        return [*_undefined(tree), *_slips(tree)]
    except RecursionError:
        return ["the program is nested too deeply"]


def defined(tree: ast.Module) -> list[str]:
    """Functions and classes at the top of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds)]


def lone_functions(code: str, shortest: int = 3, longest: int = 40) -> list[str]:
    """The functions of a document, as source, that need nothing around them but builtins and what they import."""
    tree = parsed(code)
    if isinstance(tree, str):
        return []
    found = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or not node.args.args:
            continue
        source = ast.get_source_segment(code, node) or ""
        returns = any(isinstance(part, ast.Return) and part.value is not None for part in ast.walk(node))
        if returns and shortest <= source.count("\n") + 1 <= longest and not faults(source):
            found.append(source)
    return found


def _undefined(tree: ast.Module) -> Iterator[str]:
    """Names that are read and that nothing in the program binds, wherever. Bound anywhere counts as bound: what runs
    tells the rest."""
    bound = set(KNOWN)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            bound.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            bound.add(node.rest)
    told: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id not in bound | told:
            told.add(node.id)
            yield f"line {node.lineno}: undefined name {node.id!r}, or a missing import"


def _slips(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {node.lineno}: a bare except hides every error"
        elif isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
            yield f"line {node.lineno}: import * hides where names come from"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defaults = (*node.args.defaults, *node.args.kw_defaults)
            if any(isinstance(default, MUTABLE) for default in defaults):
                yield f"line {node.lineno}: a default of {node.name!r} is shared by all calls"
