"""The Python standard library of the running interpreter: real code and English that every machine has.

Source "python": the modules, without tests. Source "prose": their docstrings (a document per module) and the topics
of the language reference that `help()` prints. A module's docstrings fall on the same side of the held-out split as
its code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from llama3.errors import ConfigError
from llama3.sources import Collector, DocumentBatch, ShardRef, listed, read_document, shard_of

NO_MODULE = ConfigError.declare(
    "L3-SRC-003", "no module is there", fix="install Python with its sources, or choose another source"
)

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}
MODULES, TOPICS = 0, 1  # parts
MAX_MODULE_BYTES = 16 << 20


class StdlibOptions(BaseModel):
    """How much of the library is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int | None = Field(
        None, ge=1, description="bytes of modules, a sample by hash of the path (default: all)"
    )


class StdlibSource:
    """Code as "python" and English as "prose"."""

    def __init__(self, options: StdlibOptions) -> None:
        self.options = options
        self.folder = Path(sysconfig.get_paths()["stdlib"])

    def shards(self) -> list[ShardRef]:
        modules = self.modules()
        if not modules:
            raise NO_MODULE(f"source 'stdlib': {self.folder}")
        location = str(self.folder)
        files = [listed(path) for path in modules]
        return [shard_of("python", location, files, MODULES), ShardRef("prose", location, TOPICS, stamp=sys.version)]

    def modules(self) -> list[Path]:
        """The modules that are read, sorted by path."""
        paths = [path for path in self.folder.rglob("*.py") if not LEFT_OUT & set(path.relative_to(self.folder).parts)]
        if self.options.max_bytes is not None:
            paths = self._sample(paths, self.options.max_bytes)
        return sorted(paths)

    def _sample(self, paths: list[Path], max_bytes: int) -> list[Path]:
        """Modules in the order of their names' hashes while they fit: a fair cut through the whole library."""
        chosen, total = [], 0
        for path in sorted(paths, key=lambda path: hashlib.blake2b(self._name(path).encode()).digest()):
            size = path.stat().st_size
            if total + size <= max_bytes:
                chosen.append(path)
                total += size
        return chosen

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        return self._read_topics() if shard.part == TOPICS else self._read_modules(shard)

    def _read_modules(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        code = Collector("python", "python", "code")
        prose = Collector("prose", "en", "prose")
        for file in shard.files:
            text = read_document(file, code, MAX_MODULE_BYTES)
            if not text:  # a package's __init__ may be empty, which is no loss
                continue
            name = self._name(Path(file.path))
            yield from code.add(text, f"stdlib:{name}")
            docstrings = docstrings_of(text)
            if docstrings:
                yield from prose.add(docstrings, f"stdlib:{name}#docstrings", origin=f"stdlib:{name}")
        yield from code.rest()
        yield from prose.rest()

    def _read_topics(self) -> Iterator[DocumentBatch]:
        prose = Collector("prose", "en", "prose")
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        for name, text in sorted(topics.items()):
            yield from prose.add(text, f"pydoc:{name}")
        yield from prose.rest()


def docstrings_of(code: str) -> str:
    """All docstrings of a module in their order, each under the name of what it documents; "" where there are none,
    or where the module is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return "\n\n".join(_sections(tree, ""))


def _sections(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[str]:
    first = node.body[0] if node.body else None
    match first:
        case ast.Expr(value=ast.Constant(value=str(docstring))):
            text = inspect.cleandoc(docstring).strip()
            if text:
                yield f"{name}\n{text}" if name else text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _sections(child, f"{name}.{child.name}" if name else child.name)
