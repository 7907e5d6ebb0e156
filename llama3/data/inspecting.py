"""What lies in a folder of data: a corpus, token shards, token files of other tools, or a run that has some of them.
Figures as plain values, and everything that is wrong with it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llama3 import _core
from llama3.artifacts.artifact import MANIFEST, Artifact
from llama3.config.token_files import TokenFormat
from llama3.data.corpus import CORPUS_IN_RUN, DOCUMENTS, FUNNEL, REJECTS, Corpus
from llama3.data.imported import ORIGINS, token_files
from llama3.data.loader import CORE_ERRORS, DAMAGED, OTHER_SHARD
from llama3.data.plan import IN_RUN as SHARDS_IN_RUN
from llama3.data.plan import PLAN, SourceEntry, TokenPlan
from llama3.data.tables import Table
from llama3.errors import ConfigError, LlamaError, Problem
from llama3.tokenizer import Tokenizer

NO_DATA = ConfigError.declare(
    "L3-DAT-230",
    "holds no data that is known here",
    fix="give a corpus, token shards, a run that has made some, or NAME.bin, NAME.idx or NAME.ds",
)
FORMATS: dict[str, TokenFormat] = {".bin": "megatron", ".idx": "megatron", ".ds": "datatrove"}


@dataclass
class Inspected:
    """`parts`: of every kind of data that is there its figures; `problems`: what is wrong with them."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: str, look: Callable[[], dict[str, Any]]) -> None:
        """What `look` finds; where it cannot, why."""
        try:
            self.parts[kind] = look()
        except LlamaError as error:
            self.problems += error.problems


def inspect(path: Path, tokenizer: Tokenizer | None = None) -> Inspected:
    """Reads everything that lies at `path`, and checks every sum that is stored with it.

    tokenizer: tells where documents of token files end, if nothing else does. Raises ConfigError (L3-DAT-230) where
    there is nothing.
    """
    found = Inspected()
    for place in (path, path / CORPUS_IN_RUN):
        if (place / DOCUMENTS).is_dir():
            found.add("corpus", lambda place=place: corpus_figures(place))  # type: ignore[misc]
    for place in (path, path / SHARDS_IN_RUN):
        if (place / PLAN).is_file():
            found.add("shards", lambda place=place: shard_figures(place, found.problems))  # type: ignore[misc]
    if format := _format_at(path):
        found.add("tokens", lambda: token_figures(path, format, tokenizer))
    if not (found.parts or found.problems):
        raise NO_DATA(path)
    return found


def _format_at(path: Path) -> TokenFormat | None:
    """The format of the token files that a path names: a file, a name without ending, a folder of some."""
    if path.is_dir():
        return next((FORMATS[file.suffix] for file in sorted(path.iterdir()) if file.suffix in FORMATS), None)
    named = path if path.suffix in FORMATS else path.with_name(f"{path.name}.idx")
    return FORMATS[named.suffix] if named.is_file() else None


def _checked(place: Path) -> bool:
    """Whether the bytes there are those that its manifest vouches for; False where it has none.

    Raises ArtifactError with every file that is damaged."""
    if not (place / MANIFEST).is_file():
        return False
    Artifact(place).verify()
    return True


def corpus_figures(place: Path) -> dict[str, Any]:
    """Documents and bytes by source, split, language and kind; what was left after every stage; what went, and why.

    Raises ArtifactError and DataError where it is damaged."""
    verified = _checked(place)
    corpus = Corpus(place)
    languages, kinds = Counter[str](), Counter[str]()
    for records in Table(place / DOCUMENTS).batches(columns=["language", "kind"]):
        languages.update(records.column("language").to_pylist())
        kinds.update(records.column("kind").to_pylist())
    return {
        "path": str(place),
        "verified": verified,
        "documents": len(corpus),
        "sources": _by_source(corpus),
        "languages": dict(languages.most_common()),
        "kinds": dict(kinds.most_common()),
        "funnel": corpus.funnel if (place / FUNNEL).is_file() else {},
        "removed": _removed(place) if (place / REJECTS).is_dir() else {},
    }


def _by_source(corpus: Corpus) -> dict[str, dict[str, dict[str, int]]]:
    """Source, then split, to {"documents", "bytes"}."""
    return {
        source: {split: cells[source] for split, cells in corpus.counts.items() if source in cells}
        for source in corpus.sources
    }


def _removed(place: Path) -> dict[str, int]:
    """ "stage.reason" to how many."""
    counts = Counter[str]()
    for records in Table(place / REJECTS).batches(columns=["stage", "reason"]):
        names = pc.binary_join_element_wise(records.column("stage"), records.column("reason"), pa.scalar("."))
        counts.update(names.to_pylist())
    return dict(counts.most_common())


def shard_figures(place: Path, problems: list[Problem]) -> dict[str, Any]:
    """Tokens and documents by source; every block of every shard is read and its sum checked. Adds to `problems` what
    is wrong with each shard. Raises DataError and ArtifactError for a plan that cannot be read."""
    plan = TokenPlan.load(place)
    for source in plan.sources:
        problems += _shard_problems(plan, source)
    verified = _checked(place)
    origins = place / ORIGINS
    return {
        "path": str(place),
        "verified": verified,
        "tokenizer": plan.tokenizer,
        "vocab_size": plan.vocab_size,
        "tokens": sum(source.tokens for source in plan.sources),
        "mix": plan.mix,
        "sources": {
            source.name: {
                "documents": sum(shard.documents for shard in source.shards),
                "tokens": source.tokens,
                "shards": len(source.shards),
            }
            for source in plan.sources
        },
        "origins": json.loads(origins.read_bytes()) if origins.is_file() else None,
    }


def _shard_problems(plan: TokenPlan, source: SourceEntry) -> list[Problem]:
    problems = []
    for entry, path in zip(source.shards, plan.paths(source), strict=True):
        try:
            shard = _core.Shard(path)
            shard.verify()
            if shard.root != entry.root:
                problems.append(OTHER_SHARD.problem(path))
        except CORE_ERRORS as error:
            problems.append(DAMAGED.problem(path, error=error))
    return problems


def token_figures(path: Path, format: TokenFormat, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """Documents and tokens by file. Raises DataError with all that is wrong."""
    files = token_files(path, format, tokenizer)
    return {
        "path": str(path),
        "format": format,
        "tokens": sum(file.tokens for file in files),
        "documents": sum(file.documents for file in files),
        "files": {file.path.name: {"documents": file.documents, "tokens": file.tokens} for file in files},
    }
