"""Writes the generated pages: api.md (what is public, from docstrings) and hooks.md (every hook of plugins).

    python docs/reference.py           write them (make docs)
    python docs/reference.py --check   exit code 1 where one of them is not up to date

Only the source is read; nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
NAMED_IN = {
    "sources": "data.sources",
    "filters": "data.filters",
    "parallelism": "parallelism",
    "data_kinds": "AlgorithmSpec.data, and post_training.data by the columns of its rows",
    "algorithms": "post_training.algorithm, post_training.sft.algorithm, post_training.reward.algorithm",
    "rewards": "post_training.rewards",
    "capabilities": "post_training.capabilities",
    "quantization": "quantization",
    "guards": "safety.policy",
    "attackers": "llama3 redteam --attacker",
    "evaluators": "evaluation.tasks",
    "exporters": "release.exports",
    "loggers": "logging",
    "commands": "the command line",
    "presets": "extends, and llama3 run DIST:NAME",
}
"""Where each family's plugins are named."""
PROTOCOLS = {
    "sources": ("llama3.sources", "Source"),
    "filters": ("llama3.filters", "Filter"),
    "parallelism": ("llama3.parallelism", "ParallelStrategy"),
    "data_kinds": ("llama3.data_kinds", "DataKind"),
    "algorithms": ("llama3.algorithms", "Algorithm"),
    "rewards": ("llama3.rewards", "Reward"),
    "capabilities": ("llama3.capabilities", "Capability"),
    "quantization": ("llama3.quantization", "QuantizationScheme"),
    "guards": ("llama3.guards", "Guard"),
    "attackers": ("llama3.attackers", "Attacker"),
    "evaluators": ("llama3.evaluators", "Evaluator"),
    "exporters": ("llama3.exporters", "Exporter"),
    "loggers": ("llama3.loggers", "Logger"),
}
"""What the factory of each family builds; commands and presets build nothing of ours."""
MODULES = (
    "llama3",
    "llama3.config",
    "llama3.tokenizer",
    "llama3.data",
    "llama3.synthesis",
    "llama3.classifying",
    "llama3.model",
    "llama3.inference",
    "llama3.errors",
    "llama3.plugins",
    *(module for module, _ in sorted(PROTOCOLS.values())),
    "llama3.testing",
)
API_HEAD = """# API reference

What is public, module by module, from the docstrings. Everything else may change without notice. Made by `make docs`.
"""
HOOKS_HEAD = """# Hooks

Every hook that a plugin may implement; [plugins.md](plugins.md) shows how. Made by `make docs` from hooks, specs and
protocols.

A *registration* hook is called once, when plugins are looked for, and returns a list of specs: `return` it, do not
`yield`, and take no arguments. A spec names things as `"package.module:Class"`, imported when a config uses the plugin.
An *observer* is told what happens and returns nothing; it gets copies. One that raises is named in a warning and hears
nothing more, and the run goes on.
"""


class Found(NamedTuple):
    """Where a public name is defined."""

    module: str
    node: ast.stmt
    text: str
    """The string below an assignment; the docstring of anything else."""


@functools.cache
def tree_of(module: str) -> ast.Module:
    """The source of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def doc_of(node: ast.AST) -> str:
    return (ast.get_docstring(node) if isinstance(node, DOCUMENTED) else "") or ""


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def exports(module: str) -> list[str]:
    """`__all__`, or the public classes and functions where there is none."""
    body = tree_of(module).body
    for node in body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return sorted(ast.literal_eval(node.value), key=lambda name: (name.casefold(), name))
    names = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return sorted((name for name in names if not name.startswith("_")), key=str.casefold)


def find(module: str, name: str) -> Found | None:
    """The definition of a name, through however many imports; None for a module."""
    statements = list(_flat(tree_of(module).body))
    for node, after in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Found(module, node, doc_of(node))
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _assigned(node):
            return Found(module, node, _string(after))
    for node in statements:
        for alias in node.names if isinstance(node, ast.ImportFrom) and node.module else ():
            if (alias.asname or alias.name) == name and _is_module(node.module):
                is_module = _is_module(f"{node.module}.{alias.name}")
                return None if is_module else find(node.module, alias.name)
    return None


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if TYPE_CHECKING` among them."""
    for node in body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _assigned(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _string(node: ast.stmt | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return inspect.cleandoc(value.value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool = False) -> str:
    """`name(a, *, b=1) -> c`."""
    given = ast.unparse(node.args)
    if method and not any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list):
        given = given.partition(", ")[2] if ", " in given else ""
        given = given.removeprefix("/, ")
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}{node.name}({given}){returns}"


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(getattr(d, "id", "") in ("property", "cached_property") for d in node.decorator_list)


def is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(getattr(d, "id", "") == "overload" for d in node.decorator_list)


def paragraphs(text: str) -> str:
    """A docstring as Markdown: lists under "Args:" and the like, indented blocks as they are."""
    found = []
    for part in text.split("\n\n"):
        head, _, rest = part.partition("\n")
        if head.endswith(":") and rest.startswith("    "):
            items = textwrap.dedent(rest).splitlines()
            found.append("\n".join([head, "", *(line if line.startswith(" ") else f"- {line}" for line in items)]))
        elif part.startswith("    ") or "\n    " in part:
            found.append(f"```text\n{textwrap.dedent(part)}\n```")
        else:
            found.append(part)
    return "\n\n".join(found)


def members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Public fields and methods of a class: how they are written, and their docstring."""
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id[0] != "_":
            value = f" = {ast.unparse(part.value)}" if part.value else ""
            yield f"{part.target.id}: {ast.unparse(part.annotation)}{value}", _string(after)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and not is_overload(part):
            if part.name == "__init__":
                yield signature(part, method=True).replace("__init__", node.name).removesuffix(" -> None"), doc_of(part)
            elif part.name[0] != "_":
                plain = f"{part.name}: {ast.unparse(part.returns)}" if is_property(part) and part.returns else ""
                yield plain or signature(part, method=True), doc_of(part)


def entry(module: str, name: str) -> str:
    """A public name in Markdown."""
    found = find(module, name)
    if found is None:
        return f"### `{name}`\n\nThe module `{module}.{name}`.\n"
    node = found.node
    if isinstance(node, ast.FunctionDef):
        return f"### `{name}`\n\n```python\n{signature(node)}\n```\n\n{paragraphs(found.text)}\n"
    if not isinstance(node, ast.ClassDef):
        value = ast.unparse(node)
        shown = f"```python\n{value}\n```\n\n" if len(value) <= 200 else ""
        return f"### `{name}`\n\n{shown}{paragraphs(found.text)}".rstrip() + "\n"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    text = f"### `{name}`\n\n```python\nclass {node.name}({bases})\n```\n\n{paragraphs(found.text)}\n".replace("()", "")
    rows = [f"- `{' '.join(written.split())}`" + _said(doc) for written, doc in members(node)]
    return text + ("\n" + "\n".join(rows) + "\n" if rows else "")


def _said(doc: str) -> str:
    """The first paragraph in one line."""
    first = " ".join(doc.split("\n\n")[0].split())
    return f": {first}" if first else ""


def api() -> str:
    """The page of everything public. A name that several modules pass on is told of where it stands first."""
    told: dict[tuple[str, str], str] = {}
    parts = [API_HEAD, "\n".join(f"- [`{module}`](#{module.replace('.', '')})" for module in MODULES) + "\n"]
    for module in MODULES:
        parts.append(f"## `{module}`\n\n{paragraphs(doc_of(tree_of(module)))}\n")
        again = []
        for name in exports(module):
            found = find(module, name)
            home = (found.module, name) if found else (module, name)
            if told.setdefault(home, module) != module:
                again.append(f"`{name}` (see `{told[home]}`)")
            elif not name.startswith("__"):
                parts.append(entry(module, name))
        if again:
            parts.append(f"Also here: {', '.join(again)}.\n")
    return "\n".join(parts)


def hooks() -> str:
    """The page of all hooks, in the order in which they are declared."""
    specs = {node.name: node for node in tree_of("llama3.plugins.specs").body if isinstance(node, ast.ClassDef)}
    kits = dict(_kits())
    declared = [node for node in tree_of("llama3.plugins.hookspecs").body if isinstance(node, ast.FunctionDef)]
    observers = [node for node in declared if doc_of(node).startswith("Observer:")]
    common = specs["PluginSpec"]
    parts = [HOOKS_HEAD, "## Registration hooks\n\n### What every spec says\n", f"{doc_of(common)}\n", _fields(common)]
    for node in declared:
        if node in observers:
            continue
        assert node.returns is not None
        spec = specs[ast.unparse(node.returns).removeprefix("list[specs.").removesuffix("]")]
        family = family_of(spec)
        parts += [
            f"### `{node.name}`\n\n{doc_of(node)}\n",
            f"```python\n@hookimpl\ndef {node.name}() -> list[{spec.name}]: ...\n```\n",
            f"- Family: `{family}`; named in {NAMED_IN[family]}\n"
            f"- Conformance class: `llama3.testing.{kits[family]}`\n"
            f"- To begin: `llama3 plugins new NAME --family {family}`\n",
            _builds(family),
            f"`{spec.name}`: {doc_of(spec)}\n",
            _fields(spec),
        ]
    parts.append("## Observers\n")
    for node in observers:
        told = doc_of(node).removeprefix("Observer: ")
        parts.append(f"### `{node.name}`\n\n{told[:1].upper()}{told[1:]}\n")
        parts.append(f"```python\n@hookimpl\ndef {signature(node)}: ...\n```\n")
    return "\n".join(part for part in parts if part)


def family_of(spec: ast.ClassDef) -> str:
    """The family that a spec is of."""
    for part in spec.body:
        if isinstance(part, ast.AnnAssign) and part.value and ast.unparse(part.target) == "family":
            return str(ast.literal_eval(part.value))
    raise ValueError(f"{spec.name} names no family")


def _builds(family: str) -> str:
    """What the factory builds, with its methods."""
    if family not in PROTOCOLS:
        return ""
    module, name = PROTOCOLS[family]
    found = find(module, name)
    assert found is not None
    assert isinstance(found.node, ast.ClassDef)
    rows = [f"| `{' '.join(written.split())}` | {_said(doc).removeprefix(': ')} |".replace(" | None", " \\| None")
            for written, doc in members(found.node)]  # fmt: skip
    head = f"The factory builds a `{module}.{name}`. {' '.join(found.text.split(chr(10) * 2)[0].split())}"
    return "\n".join([head, "", "| member | |", "|---|---|", *rows, ""])


def _fields(spec: ast.ClassDef) -> str:
    rows = [(written, doc) for written, doc in members(spec) if not written.startswith("family:")]
    if not rows:
        return ""
    lines = ["| field | meaning |", "|---|---|"]
    for written, doc in rows:
        shown = written.replace("|", "\\|")
        lines.append(f"| `{shown}` | {' '.join(doc.split())} |")
    return "\n".join([*lines, ""])


def _kits() -> Iterator[tuple[str, str]]:
    """Family and conformance class: a module of llama3.testing has the family's name."""
    for node in _flat(tree_of("llama3.testing").body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("llama3.testing."):
            yield node.module.rpartition(".")[2], node.names[0].name


PAGES = {ROOT / "docs" / "api.md": api, ROOT / "docs" / "hooks.md": hooks}


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which are stale."""
    stale = [path for path, page in PAGES.items() if not path.exists() or path.read_text("utf-8") != page()]
    for path in stale:
        if "--check" not in arguments:
            path.write_text(PAGES[path](), encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'stale' if '--check' in arguments else 'written'}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
