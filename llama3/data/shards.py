"""The stage `shard`: a corpus in tokens, as `.tok` shards per source and the plan to read them by.

Every document of the train split becomes BOS, its tokens, EOS; with `data.canaries` those come first in the largest
source (llama3.data.canaries); with `data.packing: best_fit` documents are laid so that rows cut few of them
(llama3.data.packing). Finished shards wait in scratch until all are
there, so that a killed run does not tokenise them again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from llama3 import _core
from llama3.artifacts import Artifact, CorpusArtifact, StageOutput, stage
from llama3.config.canaries import CanarySection
from llama3.config.schema import Config
from llama3.data.canaries import canary_batches, make_canaries, write_canaries
from llama3.data.corpus import Corpus
from llama3.data.documents import DocumentBatch
from llama3.data.packed import write_packed
from llama3.data.plan import ShardEntry, SourceEntry, TokenPlan
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer

NO_DOCUMENT = DataError.declare(
    "L3-DAT-207",
    "the corpus has no document to train on",
    fix="read more text, or leave data.against out where nothing is new",
)

SHARD_TOKENS = 1 << 27
"""A shard is closed after the batch of documents that brings it here."""


class ShardOptions(BaseModel):
    """The weight of each source or class; none: by its size. The canaries that are put in; of what seed. Tokens of the
    rows that documents are packed into; none: as they come."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mix: dict[str, float] = {}
    classes: dict[str, str] = {}
    canaries: CanarySection | None = None
    seed: int = 0
    pack: int | None = None

    @classmethod
    def of(cls, config: Config) -> Self:
        """From the whole config."""
        data = config.data
        seed = config.run.seed if data.canaries else 0
        pack = config.pretrain.seq_len if data.packing == "best_fit" else None
        return cls(mix=data.mix, classes=data.classes, canaries=data.canaries, seed=seed, pack=pack)


@stage(output="shards")
def shard(corpus: CorpusArtifact, tokenizer: Artifact, *, options: ShardOptions, out: StageOutput) -> None:
    """Tokenise the corpus; write shards and plan.json. `tokenizer` is any artifact that has one.

    Raises DataError (L3-DAT-207) when the train split is empty, ConfigError (L3-DAT-202) when
    `options.mix` names a source that the corpus lacks.
    """
    text, vocabulary = Corpus(corpus.path), Tokenizer.load(tokenizer.path)
    train = {name: dict(counts) for name, counts in text.counts.get("train", {}).items()}
    if not train:
        raise NO_DOCUMENT(text.path)
    writers = {name: SourceWriter(name, number, vocabulary, out.scratch) for number, name in enumerate(sorted(train))}
    if options.canaries is not None:
        _put_in_canaries(options.canaries, options.seed, writers, train, out)
    with out.progress("tokenise", sum(counts["documents"] for counts in train.values())) as task:
        for batch in text.documents("train"):
            for name, documents in _by_source(batch):
                writers[name].write(documents)
            task.advance(len(batch))
    sources = [entry for entry in (writer.close() for writer in writers.values()) if entry is not None]
    folder, fill = out.scratch, 0
    if options.pack is not None:
        folder = out.scratch / "packed"
        sources, fill = _packed(sources, options.pack, vocabulary, out.scratch, folder, out)
    for source in sources:
        for entry in source.shards:
            os.rename(folder / entry.path, out.path / entry.path)
    plan = TokenPlan(tokenizer=vocabulary.hash, vocab_size=vocabulary.vocab_size, sources=sources)
    plan = plan.with_mix(options.mix, options.classes)
    plan.save(out.path)
    _measure(plan, train, fill, out)


def _packed(
    sources: list[SourceEntry], row: int, vocabulary: Tokenizer, found: Path, folder: Path, out: StageOutput
) -> tuple[list[SourceEntry], int]:
    """The sources in rows of `row` tokens, and how many tokens fill them up."""
    folder.mkdir(exist_ok=True)
    entries: list[SourceEntry] = []
    told: dict[str, dict[str, int]] = {}
    for number, source in enumerate(sources):
        writer = SourceWriter(source.name, number, vocabulary, folder)
        told[source.name] = asdict(write_packed(source, found, row, vocabulary.eos_id, writer.write_tokens))
        entries += [entry for entry in [writer.close()] if entry is not None]
    out.metrics["packing"] = told
    return entries, sum(some["fill"] for some in told.values())


def _put_in_canaries(
    section: CanarySection,
    seed: int,
    writers: Mapping[str, SourceWriter],
    train: Mapping[str, dict[str, int]],
    out: StageOutput,
) -> None:
    """Canaries into the largest source, first: the end of a source may fill no whole row, and is then not read."""
    name = max(sorted(train), key=lambda source: train[source]["bytes"])
    canaries = make_canaries(section, seed)
    for batch in canary_batches(canaries, name):
        writers[name].write(batch)
        train[name]["documents"] += len(batch)
        train[name]["bytes"] += sum(len(text.encode()) for text in batch.texts)
    write_canaries(canaries, out.path)
    out.metrics["canaries"] = {"source": name, "seed": seed, **section.model_dump()}


def _by_source(batch: DocumentBatch) -> list[tuple[str, DocumentBatch]]:
    """The documents of each source, in order of first appearance."""
    names_D = np.array(batch.column("source"))
    return [(name, batch.take(names_D == name)) for name in dict.fromkeys(names_D.tolist())]


class SourceWriter:
    """Writes one source's shards into `folder`, going on after those that a killed run finished there."""

    def __init__(self, name: str, number: int, tokenizer: Tokenizer, folder: Path) -> None:
        self.name, self._tokenizer, self._folder = name, tokenizer, folder
        self._stem = f"{number:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}"
        self._entries: list[ShardEntry] = []
        self._writer: _core.ShardWriter | None = None
        while (finished := self._finished()) is not None:
            self._entries.append(finished)
        self._skip = sum(entry.documents for entry in self._entries)

    def _next_name(self) -> str:
        return f"{self._stem}-{len(self._entries):05d}.tok"

    def _finished(self) -> ShardEntry | None:
        """The next shard, if a killed run left it whole."""
        path = self._folder / self._next_name()
        if not path.exists():
            return None
        try:
            found = _core.Shard(str(path))
            found.verify()
        except ValueError:
            return None  # damaged: it is written again
        return ShardEntry(path=path.name, tokens=found.tokens, documents=found.documents, root=found.root)

    def write(self, batch: DocumentBatch) -> None:
        """Append documents. Shards end at batch borders, so a resumed run cuts them where the first one
        would have.
        """
        if done := self._done_of(len(batch)):
            batch = batch.take(np.arange(len(batch)) >= done)
        if len(batch):
            ids_T, starts_D1 = self._tokenizer.encode_batch(batch.texts, bos=True, eos=True)
            doc_ids_D = np.array([int(identity[:16], 16) for identity in batch.column("id")], np.uint64)
            self._append(ids_T, starts_D1, doc_ids_D)

    def write_tokens(self, ids_T: np.ndarray, starts_D1: np.ndarray, doc_ids_D: np.ndarray) -> None:
        """Append documents that are tokens already: document d is `ids_T[starts_D1[d] : starts_D1[d + 1]]`."""
        done = self._done_of(len(doc_ids_D))
        if done < len(doc_ids_D):
            begun = starts_D1[done]
            self._append(ids_T[begun:], starts_D1[done:] - begun, doc_ids_D[done:])

    def _done_of(self, count: int) -> int:
        """How many of the next `count` documents a killed run has written."""
        done = min(self._skip, count)
        self._skip -= done
        return done

    def _append(self, ids_T: np.ndarray, starts_D1: np.ndarray, doc_ids_D: np.ndarray) -> None:
        if self._writer is None:
            self._writer = _core.ShardWriter(
                str(self._folder / self._next_name()),
                vocab_size=self._tokenizer.vocab_size,
                tokenizer_hash=self._tokenizer.hash,
            )
        self._writer.append(ids_T, starts_D1, doc_ids_D)
        if self._writer.tokens >= SHARD_TOKENS:
            self._finish()

    def _finish(self) -> None:
        if self._writer is None:
            return
        name = self._next_name()
        tokens, documents, root = self._writer.finish()
        self._entries.append(ShardEntry(path=name, tokens=tokens, documents=documents, root=root))
        self._writer = None

    def close(self) -> SourceEntry | None:
        """Finish the last shard; what the source consists of, None where it has no document."""
        self._finish()
        return SourceEntry(name=self.name, shards=self._entries) if self._entries else None

    def remove(self) -> None:
        """Remove all that was written."""
        self._writer = None
        for entry in self._entries:
            (self._folder / entry.path).unlink(missing_ok=True)


def _measure(plan: TokenPlan, train: Mapping[str, Mapping[str, int]], fill: int, out: StageOutput) -> None:
    """Tokens per source (BOS, EOS and `fill` counted) and bytes of text per text token (not counted)."""
    sources = {
        source.name: {
            "documents": train[source.name]["documents"],
            "bytes": train[source.name]["bytes"],
            "tokens": source.tokens,
        }
        for source in plan.sources
    }
    text_tokens = sum(counts["tokens"] - 2 * counts["documents"] for counts in sources.values()) - fill
    out.metrics["sources"] = sources
    out.metrics["tokens"] = sum(counts["tokens"] for counts in sources.values())
    out.metrics["bytes_per_token"] = sum(counts["bytes"] for counts in sources.values()) / max(text_tokens, 1)
    out.metrics["plan_hash"] = plan.hash
