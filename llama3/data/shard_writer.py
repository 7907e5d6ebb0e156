"""Own texts as token shards, for `TokenLoader`: what the stage `shard` does, without a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from llama3.data.columns import text_column
from llama3.data.documents import DocumentBatch
from llama3.data.plan import PLAN, TokenPlan
from llama3.data.reading import BATCH_BYTES, BATCH_DOCUMENTS
from llama3.data.shards import NO_DOCUMENT, SourceWriter
from llama3.errors import DataError
from llama3.tokenizer import Tokenizer

IN_USE = DataError.declare(
    "L3-DAT-208", "holds token shards already", fix="choose an empty folder; shards are never written over"
)


class ShardWriter:
    """Writes texts into `folder` as token shards and a plan, by source; each text becomes BOS, its tokens, EOS.

        with ShardWriter("shards", tokenizer) as writer:
            writer.add(texts)
        loader = TokenLoader("shards", seq_len=2048)

    The plan appears when the block ends; after an exception nothing that was written is left.
    """

    def __init__(self, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> None:
        """Raises DataError (L3-DAT-208) where shards lie in `folder`."""
        self.folder, self.tokenizer = Path(folder), tokenizer
        self._writers: dict[str, SourceWriter] = {}
        if (self.folder / PLAN).exists() or any(self.folder.glob("*.tok")):
            raise IN_USE(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, texts: Iterable[str] | pa.Array | pa.ChunkedArray, *, source: str = "text") -> None:
        """Appends documents to a source. Reads an iterator as it goes. Raises DataError for what is no text."""
        if source not in self._writers:
            self._writers[source] = SourceWriter(source, len(self._writers), self.tokenizer, self.folder)
        for column in _portions(texts):
            self._writers[source].write(DocumentBatch.of(column, source=source, urls=[""] * len(column)))

    def close(self) -> TokenPlan:
        """Finishes the shards and writes the plan; returns it. Raises DataError (L3-DAT-207) without any document."""
        sources = [entry for entry in (writer.close() for writer in self._writers.values()) if entry is not None]
        if not sources:
            raise NO_DOCUMENT(self.folder)
        plan = TokenPlan(tokenizer=self.tokenizer.hash, vocab_size=self.tokenizer.vocab_size, sources=sources)
        plan.save(self.folder)
        return TokenPlan.load(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self.close()
        finally:
            if not (self.folder / PLAN).exists():
                for writer in self._writers.values():
                    writer.remove()


def _portions(texts: Any) -> Iterator[pa.Array]:
    """The texts in columns of bounded size."""
    if not isinstance(texts, Iterator):
        column = text_column(texts)
        yield from (column.slice(at, BATCH_DOCUMENTS) for at in range(0, len(column), BATCH_DOCUMENTS))
        return
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text) if isinstance(text, str | bytes) else 0
        if size >= BATCH_BYTES or len(some) >= BATCH_DOCUMENTS:
            yield text_column(some)
            some, size = [], 0
    if some:
        yield text_column(some)
