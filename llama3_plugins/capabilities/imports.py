"""Which Python files of a repository depend on which, by their imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from llama3_plugins.capabilities.python_source import parsed


@dataclass(frozen=True, slots=True)
class Dependent:
    """A file that imports another one, and the names that it takes from it."""

    path: str
    names: frozenset[str]


def dependents(files: Mapping[str, str]) -> dict[str, list[Dependent]]:
    """By path of each file the files that import it, sorted. `files`: texts by path from the repository's root. Files
    that do not parse import nothing."""
    modules = {_module(path): path for path in files}
    found: dict[str, dict[str, set[str]]] = {}
    for path, text in files.items():
        for module, names in _imports(path, text):
            for target, taken in _targets(module, names, modules):
                if target != path:
                    found.setdefault(target, {}).setdefault(path, set()).update(taken)
    return {
        target: [Dependent(path, frozenset(names)) for path, names in sorted(by_path.items())]
        for target, by_path in sorted(found.items())
    }


def bound(text: str) -> frozenset[str]:
    """The names that a module binds, wherever; none where it does not parse."""
    tree = parsed(text)
    names: set[str] = set()
    for node in ast.walk(tree) if isinstance(tree, ast.Module) else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(one.asname or one.name).split(".")[0] for one in node.names}
    return frozenset(names)


def _module(path: str) -> tuple[str, ...]:
    parts = PurePosixPath(path).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imports(path: str, text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Modules that a file imports, as parts of their names from the root, and the names that it takes from each."""
    tree, package = parsed(text), PurePosixPath(path).parent.parts
    for node in ast.walk(tree) if isinstance(tree, ast.Module) else ():
        if isinstance(node, ast.Import):
            yield from ((tuple(one.name.split(".")), []) for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package) + 1:
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield module, [one.name for one in node.names]


def _targets(
    module: tuple[str, ...], names: list[str], modules: Mapping[tuple[str, ...], str]
) -> Iterator[tuple[str, list[str]]]:
    """The files that an import reads: the module, and modules among the names that are taken from a package."""
    inner = [name for name in names if (*module, name) in modules]
    yield from ((modules[(*module, name)], []) for name in inner)
    if module in modules and (not inner or len(inner) < len(names)):
        yield modules[module], [name for name in names if name not in inner and name != "*"]
