"""`.tok` shards as token files of other tools."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from llama3 import _core
from llama3.artifacts.new_directory import new_directory, require_new
from llama3.artifacts.progress import Display
from llama3.config.token_files import TokenFormat
from llama3.data.datatrove import ENDING, DatatroveWriter
from llama3.data.loader import CORE_ERRORS, DAMAGED, OTHER_SHARD
from llama3.data.megatron import MegatronWriter
from llama3.data.plan import SourceEntry, TokenPlan
from llama3.data.token_files import PORTION, TokenFileWriter


def export_tokens(
    plan: TokenPlan | str | os.PathLike[str],
    format: TokenFormat,
    folder: str | os.PathLike[str],
    display: Display | None = None,
) -> dict[str, dict[str, int]]:
    """Write every source of a plan (or of a directory of shards) as one file of the format, with what belongs to it,
    into the new directory `folder`, which appears when all of it is on disk; returns documents and tokens by file.

    Documents keep all of their tokens, BOS and EOS too, and their order; what they are called and where they came from
    has no place there. Raises ConfigError (L3-CNV-001) where `folder` holds something, DataError (L3-DAT-203, 205) for
    a shard that is damaged or not the plan's.
    """
    folder, plan = Path(folder), plan if isinstance(plan, TokenPlan) else TokenPlan.load(plan)
    require_new(folder)
    display = display or Display.silent()
    written: dict[str, dict[str, int]] = {}
    total = sum(source.tokens for source in plan.sources)
    with new_directory(folder) as place, display.task("write tokens", total) as task:
        for number, source in enumerate(plan.sources):
            stem = place / f"{number:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', source.name)[:40]}"
            writer = _writer(format, stem, plan)
            for ids_T, starts_D1 in _documents(plan, source):
                writer.write(ids_T, starts_D1)
                task.advance(len(ids_T))
            writer.close()
            documents = sum(shard.documents for shard in source.shards)
            written[stem.name] = {"documents": documents, "tokens": source.tokens}
    return written


def _writer(format: TokenFormat, stem: Path, plan: TokenPlan) -> TokenFileWriter:
    if format == "megatron":
        return MegatronWriter(stem, plan.vocab_size)
    return DatatroveWriter(stem.with_name(stem.name + ENDING), plan.vocab_size, f"llama3-{plan.tokenizer[:12]}")


def _documents(plan: TokenPlan, source: SourceEntry) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The documents of a source in portions: tokens [T], and where each starts in them [D + 1]."""
    for entry, path in zip(source.shards, plan.paths(source), strict=True):
        try:
            shard = _core.Shard(path)
            if shard.root != entry.root:
                raise OTHER_SHARD(path)
            some: list[np.ndarray] = []
            size = 0
            for number in range(shard.documents):
                _, ids = shard.document(number)
                some.append(ids)
                size += len(ids)
                if size >= PORTION or number + 1 == shard.documents:
                    yield np.concatenate(some), np.cumsum([0, *map(len, some)])
                    some, size = [], 0
        except CORE_ERRORS as error:
            raise DAMAGED(path, error=error) from error
