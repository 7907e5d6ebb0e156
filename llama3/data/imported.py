"""The stage `imported`: token files of other tools as `.tok` shards, without text and without tokenising again.

Each path that was given is a source: a file, or all files of a folder. As in shards that were made of text, a document
begins with BOS (where this family of tokenizers does) and ends with EOS: what lacks is added.

Letters: D documents and T tokens of a portion.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llama3 import _core
from llama3.artifacts import Artifact, Stage, StageOutput, stage
from llama3.artifacts.files import write_json_atomic
from llama3.artifacts.progress import ProgressBar
from llama3.config.schema import Config
from llama3.config.token_files import TokenFormat
from llama3.data.columns import printable
from llama3.data.datatrove import ENDING, DatatroveFile
from llama3.data.megatron import MegatronFile, stem_of, with_ending
from llama3.data.plan import TokenPlan
from llama3.data.shards import NO_DOCUMENT, ShardOptions, SourceWriter, shard
from llama3.data.token_files import TokenFile, portions
from llama3.errors import ConfigError, DataError, Problem
from llama3.tokenizer import Tokenizer

NO_TOKEN_FILE = ConfigError.declare("L3-DAT-224", "there is no {format} file", fix="give {wanted}, or a folder of some")
OTHER_VOCABULARY = DataError.declare(
    "L3-DAT-225",
    "{count} of its documents have tokens that the tokenizer does not know",
    why="document {document} has {token}; the tokenizer has the tokens below {vocab_size}",
    fix="give the tokenizer that made the tokens",
)
CHANGED = DataError.declare(
    "L3-DAT-226", "changed since this began", fix="give the same command again when nobody writes to it"
)
SAME_NAME = ConfigError.declare(
    "L3-DAT-227", "two of the paths would be the source {name!r}", fix="rename one: a source is called as its path"
)

ORIGINS = "origins.json"
WANTED = {"megatron": "NAME.bin with NAME.idx beside it", "datatrove": f"NAME{ENDING}"}


class FileHash(BaseModel):
    """A file, and the hash of what it holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    blake3: str


class ImportOptions(BaseModel):
    """What is read, by its content, so that other files are another request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: TokenFormat
    sources: dict[str, list[list[FileHash]]] = Field(description="of each source its token files with all that belongs")
    complete: bool = Field(True, description="add BOS and EOS where a document lacks them")
    mix: dict[str, float] = Field({}, description="weight of each source or class; none: by its size")
    classes: dict[str, str] = Field({}, description="class of each source")

    @classmethod
    def of_config(cls, config: Config, tokenizer: Artifact) -> Self:
        """From the whole config, whose `data.tokens` is given; `tokenizer` is any artifact that has one."""
        given = config.data.tokens
        assert given is not None
        paths, vocabulary = [Path(path).expanduser() for path in given.paths], Tokenizer.load(tokenizer.path)
        found = cls.of(paths, given.format, vocabulary, complete=given.complete)
        return found.model_copy(update={"mix": config.data.mix, "classes": config.data.classes})

    @classmethod
    def of(cls, paths: Sequence[Path], format: TokenFormat, tokenizer: Tokenizer, *, complete: bool = True) -> Self:
        """Finds, checks and hashes the files. Raises ConfigError and DataError, for all paths at once, where there are
        none or some are not sound."""
        sources: dict[str, list[list[FileHash]]] = {}
        problems: list[Problem] = []
        for path in paths:
            try:
                files = token_files(path, format, tokenizer)
            except (ConfigError, DataError) as error:
                problems += error.problems
                continue
            if (name := _name(path)) in sources:
                problems.append(SAME_NAME.problem(path, name=name))
            sources[name] = [[_hashed(part) for part in file.files] for file in files]
        if problems:
            raise DataError.of(problems)
        return cls(format=format, sources=sources, complete=complete)


def _hashed(path: Path) -> FileHash:
    return FileHash(path=str(path.absolute()), blake3=_core.blake3_file(str(path)))


def _name(path: Path) -> str:
    return printable(path.absolute().name.removesuffix(".idx").removesuffix(".bin").removesuffix(ENDING)) or "tokens"


def token_files(path: Path, format: TokenFormat, tokenizer: Tokenizer | None = None) -> list[TokenFile]:
    """The files of a format that a path names: one, or all of a folder, by name; opened, that is, checked.

    Raises ConfigError (L3-DAT-224) where there is none, DataError with what is wrong with all that are not sound.
    """
    found = _found(path, format)
    if not found:
        raise NO_TOKEN_FILE(path, format=format, wanted=WANTED[format])
    files: list[TokenFile] = []
    problems: list[Problem] = []
    for file in found:
        try:
            files.append(_opened(file, format, tokenizer))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems)
    return files


def _found(path: Path, format: TokenFormat) -> list[Path]:
    if format == "megatron":
        if path.is_dir():
            return sorted({stem_of(file) for ending in (".bin", ".idx") for file in path.glob(f"*{ending}")})
        stem = stem_of(path)
        return [stem] if any(with_ending(stem, ending).is_file() for ending in (".bin", ".idx")) else []
    return sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path] if path.is_file() else []


def _opened(path: Path, format: TokenFormat, tokenizer: Tokenizer | None) -> TokenFile:
    if format == "megatron":
        return MegatronFile.open(path)
    if tokenizer is None:
        return DatatroveFile.open(path)
    return DatatroveFile.open(path, tokenizer.vocab_size, tokenizer.eos_id)


@stage(output="shards")
def imported(tokenizer: Artifact, *, options: ImportOptions, out: StageOutput) -> None:
    """Write the documents as shards, plan.json, and origins.json: which files they came from, by their hashes.
    Documents without any token are left out, counted. `tokenizer` is any artifact that has one.

    Raises DataError: L3-DAT-225 for tokens that the tokenizer does not have, in all files at once, L3-DAT-207 where
    there is no document, L3-DAT-226 for files that changed; ConfigError (L3-DAT-202) where the mix names no source.
    """
    vocabulary = Tokenizer.load(tokenizer.path)
    opened = {name: [_reopened(files, options.format, vocabulary) for files in given]
              for name, given in options.sources.items()}  # fmt: skip
    reading = _Reading(vocabulary, options.complete)
    writers = [SourceWriter(name, number, vocabulary, out.scratch) for number, name in enumerate(sorted(opened))]
    total = sum(file.tokens for files in opened.values() for file in files)
    with out.progress("read tokens", total) as task:
        for writer in writers:
            for file in opened[writer.name]:
                reading.copy(file, writer, task)
    if reading.problems:
        raise DataError.of(reading.problems)
    sources = [entry for entry in (writer.close() for writer in writers) if entry is not None]
    if not sources:
        raise NO_DOCUMENT(", ".join(sorted(opened)))
    for source in sources:
        for entry in source.shards:
            os.rename(out.scratch / entry.path, out.path / entry.path)
    plan = TokenPlan(tokenizer=vocabulary.hash, vocab_size=vocabulary.vocab_size, sources=sources)
    plan = plan.with_mix(options.mix, options.classes)
    plan.save(out.path)
    write_json_atomic(out.path / ORIGINS, {"format": options.format, "sources": _origins(options)})
    out.metrics |= {
        "sources": {
            source.name: {"documents": sum(shard.documents for shard in source.shards), "tokens": source.tokens}
            for source in plan.sources
        },
        "tokens": sum(source.tokens for source in plan.sources),
        "format": options.format,
        "empty_documents": reading.empty,
        "added_bos": reading.added_bos,
        "added_eos": reading.added_eos,
        "plan_hash": plan.hash,
    }


class MakesArtifacts(Protocol):
    """What executes stages (llama3.execution.Executor)."""

    def __call__(
        self, stage: Stage, key: str, options: BaseModel | None = None, /, **inputs: Artifact | None
    ) -> Artifact: ...


def sharded(make: MakesArtifacts, config: Config, corpus: Artifact, tokenizer: Artifact) -> Artifact:
    """The shards that a config asks for: of the corpus, or of the token files that it names."""
    if config.data.tokens is None:
        return make(shard, "shard", ShardOptions.of(config), corpus=corpus, tokenizer=tokenizer)
    return make(imported, "shard", ImportOptions.of_config(config, tokenizer), tokenizer=tokenizer)


def _reopened(files: list[FileHash], format: TokenFormat, tokenizer: Tokenizer) -> TokenFile:
    """Raises DataError (L3-DAT-226) where the files are not those that were hashed."""
    changed = [file.path for file in files if _core.blake3_file(file.path) != file.blake3]
    if changed:
        raise CHANGED(", ".join(changed))
    return _opened(Path(files[0].path), format, tokenizer)


def _origins(options: ImportOptions) -> dict[str, list[dict[str, str]]]:
    """Names and hashes; where they lay is no property of the shards."""
    return {
        name: [{"name": Path(part.path).name, "blake3": part.blake3} for files in given for part in files]
        for name, given in options.sources.items()
    }


@dataclass
class _Reading:
    """Copies documents of token files, and counts what it meets. After the first token that is unknown nothing more is
    written, but all is read, so that everything that is wrong is told."""

    tokenizer: Tokenizer
    complete: bool
    empty: int = 0
    added_bos: int = 0
    added_eos: int = 0
    problems: list[Problem] = field(default_factory=list)

    def copy(self, file: TokenFile, writer: SourceWriter, task: ProgressBar) -> None:
        read = unknown = 0
        first = (0, 0)
        for ids_T, starts_D1 in portions(file):
            bad_T = (ids_T < 0) | (ids_T >= self.tokenizer.vocab_size)
            if bad_T.any():
                of_T = np.searchsorted(starts_D1, np.flatnonzero(bad_T), "right") - 1
                first = first if unknown else (read + int(of_T[0]), int(ids_T[bad_T][0]))
                unknown += len(np.unique(of_T))
            read += len(starts_D1) - 1
            if not (unknown or self.problems):
                self._write(writer, ids_T.astype(np.uint32), starts_D1)
            task.advance(len(ids_T))
        if unknown:
            count, size = f"{unknown:,} of {read:,}", self.tokenizer.vocab_size
            self.problems.append(
                OTHER_VOCABULARY.problem(file.path, count=count, document=first[0], token=first[1], vocab_size=size)
            )

    def _write(self, writer: SourceWriter, ids_T: np.ndarray, starts_D1: np.ndarray) -> None:
        full_D = np.diff(starts_D1) > 0
        self.empty += int((~full_D).sum())
        starts_D1 = np.append(starts_D1[:-1][full_D], starts_D1[-1])
        if not full_D.any():
            return
        doc_ids_D = np.fromiter(_identities(ids_T, starts_D1), np.uint64, len(starts_D1) - 1)
        if self.complete:
            ids_T, starts_D1 = self._completed(ids_T, starts_D1)
        writer.write_tokens(ids_T, starts_D1.astype(np.uint64), doc_ids_D)

    def _completed(self, ids_T: np.ndarray, starts_D1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The documents with BOS and EOS."""
        bos, eos = self.tokenizer.bos_id if self.tokenizer.add_bos else None, self.tokenizer.eos_id
        no_eos_D = ids_T[starts_D1[1:] - 1] != eos
        no_bos_D = np.zeros_like(no_eos_D) if bos is None else ids_T[starts_D1[:-1]] != bos
        self.added_bos += int(no_bos_D.sum())
        self.added_eos += int(no_eos_D.sum())
        # One document's EOS goes in before the next one's BOS: `insert` keeps the order of what has one place.
        places = np.concatenate([starts_D1[1:][no_eos_D], starts_D1[:-1][no_bos_D]])
        added = np.repeat(np.array([eos, eos if bos is None else bos], np.uint32), [no_eos_D.sum(), no_bos_D.sum()])
        lengths_D = np.diff(starts_D1) + no_eos_D + no_bos_D
        return np.insert(ids_T, places, added), np.concatenate([[0], np.cumsum(lengths_D)])


def _identities(ids_T: np.ndarray, starts_D1: np.ndarray) -> Iterator[int]:
    """The first 8 bytes of the hash of each document's tokens: there is no text that it could be known by."""
    data, places = ids_T.astype("<u4").tobytes(), (4 * starts_D1).tolist()
    for start, stop in pairwise(places):
        yield int(_core.blake3_bytes(data[start:stop])[:16], 16)
