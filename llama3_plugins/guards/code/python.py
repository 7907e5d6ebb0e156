"""What Python code calls and sets, by `ast`: imports, aliases and simple assignments are followed, names that the code
defines itself are told from those of the language.

What is known of a name never makes less of a use than would be said without more code below it, but for definitions,
which count from where they stand: so the beginning of a program has no alarm that the whole has not.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from llama3_plugins.guards.code.constants import Constants, value_of
from llama3_plugins.guards.code.rules import ASKED, SET
from llama3_plugins.guards.code.uses import Argument, Use

_TRIES = 12
"""How often code that does not parse is cut before the line that the parser complains of."""
_DEEPEST = 4
"""Names that stand for names."""


class UnparsableError(ValueError):
    """Nothing of it can be parsed."""


def parse_python(code: str) -> tuple[ast.Module, int, int]:
    """The tree of the longest beginning that parses, the lines that were put before it, and the characters of it.

    Raises UnparsableError.
    """
    lines = code.splitlines(keepends=True)
    before = _outside(lines)
    end = len(lines)
    for _ in range(_TRIES):
        if not any(map(str.strip, lines[:end])):
            break
        text = "".join(lines[:end])
        try:
            return ast.parse(before + text), before.count("\n"), len(text)
        except SyntaxError as error:
            at = (error.lineno or end) - before.count("\n") - 1
            end = max(0, min(at, end - 1))
        except (ValueError, RecursionError, MemoryError):
            break
    raise UnparsableError


def _outside(lines: list[str]) -> str:
    """Lines into which those of a fragment fit that begins within blocks."""
    widths = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    levels: list[int] = []
    for width in widths:
        if not levels or width < levels[-1]:
            levels.append(width)
    outer = [] if not levels or not levels[0] else sorted({0, *levels[1:]})
    return "".join(f"{' ' * width}if 1:\n" for width in outer)


class PythonUses(ast.NodeVisitor):
    """Collects the uses of a tree that `parse_python` made of code. Raises RecursionError for code in great depth."""

    def __init__(self, code: str, tree: ast.Module, lines_before: int) -> None:
        self.found: list[Use] = []
        self._place = _Places(code, lines_before)
        self._aliases = _aliases(tree)
        self._constants = Constants(tree)
        self._own: list[set[str]] = [set()]  # of the module, then of the functions that are read
        self._values: dict[str, ast.expr] = {}
        self._called: set[ast.expr] = set()
        self.visit(tree)

    # -- names -------------------------------------------------------------------------------------

    def _meant(self, node: ast.expr, depth: int = 0) -> frozenset[str]:
        """Dotted names that an expression may stand for; of what is none, "?"."""
        if depth > 8 * _DEEPEST:
            return frozenset("?")
        if isinstance(node, ast.Name):
            if node.id in self._aliases:
                return self._of_alias(node.id, _DEEPEST)
            if any(node.id in own for own in self._own):
                return frozenset("?")
            return frozenset((node.id, *(f"{module}.{node.id}" for module in self._aliases.get("*", ()))))
        if isinstance(node, ast.Attribute):
            return frozenset(f"{name}.{node.attr}" for name in self._meant(node.value, depth + 1))
        if isinstance(node, ast.Call):
            return self._of_call(node, depth + 1)
        if isinstance(node, ast.Await | ast.NamedExpr):
            return self._meant(node.value, depth + 1)
        return frozenset("?")

    def _of_call(self, node: ast.Call, depth: int) -> frozenset[str]:
        """The name of a call's result: the module that it imports, the attribute that it gets."""
        names = self._meant(node.func, depth)
        known = [self._known_text(argument) for argument in node.args[:2]]
        if names & {"__import__", "importlib.import_module", "builtins.__import__"} and known and known[0]:
            return frozenset((known[0],))
        if names & {"getattr", "builtins.getattr"} and len(known) == 2 and known[1]:
            return frozenset(f"{name}.{known[1]}" for name in self._meant(node.args[0], depth))
        return frozenset(f"{name}()" for name in names)

    def _known_text(self, node: ast.expr) -> str:
        """The string that an expression is, as far as names were set before; else nothing."""
        value = value_of(node, self._values)
        return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""

    def _of_alias(self, name: str, depth: int) -> frozenset[str]:
        found: set[str] = set()
        for meant in self._aliases[name]:
            first, dot, rest = meant.partition(".")
            if first in self._aliases and first != name and depth:
                found |= {f"{inner}{dot}{rest}" for inner in self._of_alias(first, depth - 1)}
            else:
                found.add(meant)
        return frozenset(found)

    # -- scopes ------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._own[-1].add(node.name)
        for part in (*node.decorator_list, node.args, *([node.returns] if node.returns else [])):
            self.visit(part)
            if part in node.decorator_list and isinstance(part, ast.Name):
                self._call(part, part, lambda: ())
        self._inner(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._inner(node.args, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._own[-1].add(node.name)
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        before = set(self._own[-1])
        for statement in node.body:
            self.visit(statement)
        self._own[-1] = before  # names of a class are none of its functions, nor of what follows

    def _inner(self, arguments: ast.arguments, body: list[ast.stmt] | list[ast.expr]) -> None:
        words = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        names = {word.arg for word in words if word is not None}
        outside, self._values = self._values, {k: v for k, v in self._values.items() if k not in names}
        self._own.append(names)
        for part in body:
            self.visit(part)
        self._own.pop()
        self._values = outside

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._set(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._set(node.target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._set(node.target, node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and node.target.id in self._values:
            joined = ast.BinOp(self._values[node.target.id], node.op, node.value)
            self._values[node.target.id] = ast.copy_location(joined, node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):  # loops, `with`, patterns
            self._own[-1].add(node.id)
            self._values.pop(node.id, None)

    def _set(self, target: ast.expr, value: ast.expr) -> None:
        self.visit(target)
        last = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        for name, given in _unpacked(target, value):
            self._values[name] = given
            meant = self._meant(given) if isinstance(given, ast.Call) else ()  # getattr of what names before it tell
            if asked := {full for full in meant if full.rpartition(".")[2] in ASKED}:
                self._aliases.setdefault(name, set()).update(asked)
        if last in SET:
            names = self._meant(target) if isinstance(target, ast.Attribute) else frozenset((last,))
            self._add(names, target, value, lambda: [self._argument(value)], is_set=True)

    # -- uses --------------------------------------------------------------------------------------

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """What is handed on without being called: rules without conditions hold of it."""
        self.visit(node.value)
        if isinstance(node.ctx, ast.Load) and node.attr in ASKED and node not in self._called:
            self._call(node, node, lambda: ())

    def visit_Call(self, node: ast.Call) -> None:
        self._called.add(node.func)
        self.generic_visit(node)
        values = dict(self._values) if self._is_asked(node.func) else {}
        self._call(node.func, node, partial(self._arguments, node, values))

    def _call(self, function: ast.expr, node: ast.expr, arguments: object) -> None:
        if self._is_asked(function):
            names = frozenset(name.removeprefix("builtins.") for name in self._meant(function))
            self._add(names, node, node, arguments, is_set=False)

    def _is_asked(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Attribute):
            return function.attr in ASKED
        if isinstance(function, ast.Name):
            return function.id in ASKED or function.id in self._aliases
        return isinstance(function, ast.Call)

    def _add(self, names: frozenset[str], first: ast.expr, last: ast.expr, arguments: object, *, is_set: bool) -> None:
        start, end = (
            self._place.of(first.lineno, first.col_offset),
            self._place.of(last.end_lineno, last.end_col_offset),
        )
        self.found.append(Use(names, start, end, arguments, is_set))  # type: ignore[arg-type]

    def _arguments(self, node: ast.Call, values: dict[str, ast.expr]) -> list[Argument]:
        found = [self._argument(argument, values) for argument in node.args]
        for word in node.keywords:
            value = self._argument(word.value, values)
            name = f"{word.arg}=" if word.arg else "**"
            found.append(Argument(f"{name}{value.text}", value.is_constant, value.is_joined))
        return found

    def _argument(self, node: ast.expr, values: dict[str, ast.expr] | None = None) -> Argument:
        values = self._values if values is None else values
        if isinstance(node, ast.List | ast.Tuple):
            parts = [self._argument(part, values) for part in node.elts]
            text = f"[{', '.join(part.text for part in parts)}]"
            return Argument(text, all(part.is_constant for part in parts))
        value, is_constant = value_of(node, values), self._constants.has(node, values)
        is_joined = not is_constant and self._constants.is_joined(node, values)
        if isinstance(value, ast.Constant):
            text = f'"{value.value}"' if isinstance(value.value, str) else repr(value.value)
            return Argument(text, is_constant, is_joined)
        names = not is_constant and isinstance(value, ast.Name | ast.Attribute) and self._meant(value)
        text = sorted(names)[0] if names and "?" not in "".join(names) else _text(value)
        return Argument(text, is_constant, is_joined)


class _Places:
    """From lines and bytes, as `ast` counts, to characters."""

    def __init__(self, code: str, lines_before: int) -> None:
        self._lines, self._before, self._starts = code.splitlines(keepends=True), lines_before, [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def of(self, line: int | None, column: int | None) -> int:
        number = max((line or 1) - 1 - self._before, 0)
        text = self._lines[number]
        column = column or 0
        if not text.isascii():
            column = len(text.encode("utf-8", "replace")[:column].decode("utf-8", "ignore"))
        return self._starts[number] + column


def _aliases(tree: ast.Module) -> dict[str, set[str]]:
    """What names stand for that are imported, or set to something of that or to what rules ask for."""
    aliases: dict[str, set[str]] = defaultdict(set)
    nodes = list(ast.walk(tree))
    for name, meant in (pair for node in nodes for pair in _imported(node)):
        aliases[name].add(meant)
    for _ in range(2):  # names of names
        for name, meant in (pair for node in nodes for pair in _renamed(node)):
            if name != meant and (meant.partition(".")[0] in aliases or meant.rpartition(".")[2] in ASKED):
                aliases[name].add(meant)
    return dict(aliases)


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (first, first)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            of = node.module or ""
            yield (alias.asname or alias.name), (of if alias.name == "*" else f"{of}.{alias.name}")


def _renamed(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Assign | ast.NamedExpr | ast.AnnAssign) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for name, value in _unpacked(target, node.value):
                if meant := _dotted(value):
                    yield name, meant


def _unpacked(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names that an assignment sets, each with what it is set to; of what is unpacked, as far as both sides are
    written out."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
        parts = [*target.elts, *value.elts]
        if len(target.elts) == len(value.elts) and not any(isinstance(part, ast.Starred) for part in parts):
            for inner, given in zip(target.elts, value.elts, strict=True):
                yield from _unpacked(inner, given)


def _dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression, `a.b` of getattr(a, "b"); else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := _dotted(node.value)) else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        first, second = node.args[0], node.args[1] if len(node.args) > 1 else None
        if node.func.id == "getattr" and isinstance(second, ast.Constant) and (before := _dotted(first)):
            return ".".join((before, str(second.value)))
        if node.func.id == "__import__" and isinstance(first, ast.Constant):
            return str(first.value)
    return ""


def _text(node: ast.expr) -> str:
    try:
        return ast.unparse(node)
    except (RecursionError, ValueError, AttributeError):
        return "?"
