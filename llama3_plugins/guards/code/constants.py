"""Which names and expressions of Python code are constants, and which are strings that something is put into.

A name is a constant where the whole code binds it once, and that by a plain assignment of a constant: whatever scope
another binding stands in, the name may be that. More code makes fewer names constants, never more.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping

_DEEPEST = 4
"""Names that stand for names."""
_DEEPEST_INSIDE = 12
"""Expressions within expressions."""
_FORMATS = ("format", "join", "strip", "encode")
_MADE_OF_OTHERS = ast.BinOp | ast.JoinedStr | ast.FormattedValue | ast.List | ast.Tuple | ast.UnaryOp

Values = Mapping[str, ast.expr]
"""What names were last set to, where that is known."""


class Constants:
    """The constants of a tree."""

    def __init__(self, tree: ast.Module) -> None:
        nodes = list(ast.walk(tree))
        bound = Counter(name for node in nodes for name in _bound(node))
        assigned = {target.id for node in nodes for target in _plain_targets(node)}
        imported = {name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in _bound(node)}
        self._assigned = {name for name in assigned if bound[name] == 1}
        self._variable = {name for name, times in bound.items() if times > 1 or name not in assigned | imported}

    def has(self, node: ast.expr, values: Values, depth: int = _DEEPEST_INSIDE) -> bool:
        """Whether an expression is a constant. A name in capitals that is bound nowhere here, or imported, is."""
        if isinstance(node, ast.Constant):
            return True
        if depth <= 0 or (isinstance(node, ast.Name) and node.id in self._variable):
            return False
        if isinstance(node, ast.Name):
            if node.id in self._assigned:
                return node.id in values and self.has(values[node.id], values, depth - 1)
            return node.id.isupper()
        if isinstance(node, ast.Call):
            function = node.func
            if not (isinstance(function, ast.Attribute) and function.attr in _FORMATS):
                return False
            parts = [*node.args, *(word.value for word in node.keywords), function.value]
            return all(self.has(part, values, depth - 1) for part in parts)
        inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return isinstance(node, _MADE_OF_OTHERS) and all(self.has(child, values, depth - 1) for child in inner)

    def is_joined(self, node: ast.expr, values: Values) -> bool:
        """Whether an expression is a string that something is put into which is no constant."""
        node = _followed(node, values, _DEEPEST)
        return _is_joined(node, values) and not self.has(node, values)


def value_of(node: ast.expr, values: Values, depth: int = _DEEPEST) -> ast.expr:
    """An expression, or what the name that it is was set to; strings that are added are one."""
    node = _followed(node, values, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and depth:
        left, right = value_of(node.left, values, depth - 1), value_of(node.right, values, depth - 1)
        texts = [part.value for part in (left, right) if isinstance(part, ast.Constant)]
        if len(texts) == 2 and all(isinstance(text, str) for text in texts):
            return ast.Constant("".join(map(str, texts)))
        return ast.BinOp(left, node.op, right)
    return node


def _followed(node: ast.expr, values: Values, depth: int) -> ast.expr:
    while isinstance(node, ast.Name) and node.id in values and depth:
        node, depth = values[node.id], depth - 1
    return node


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a node binds, unbinds, or lets another scope bind; not those of its children."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Global | ast.Nonlocal):
        yield from node.names
    elif isinstance(node, ast.MatchMapping):
        yield from [node.rest] if node.rest else []
    elif isinstance(
        node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    ):
        yield from [node.name] if node.name else []


def _plain_targets(node: ast.AST) -> Iterator[ast.Name]:
    """The names that an assignment sets to its value, as they are."""
    if isinstance(node, ast.Assign):
        yield from (target for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        yield node.target


def _is_joined(node: ast.expr, values: Values) -> bool:
    """Whether it is a string that something is put into, a constant or not."""
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(_is_text(part, values) for part in (node.left, node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("format", "join", "format_map") and _is_text(node.func.value, values)
    return False


def _is_text(node: ast.expr, values: Values) -> bool:
    node = value_of(node, values)
    return (isinstance(node, ast.Constant) and isinstance(node.value, str)) or _is_joined(node, values)
