"""A corpus in parts by what a classifier takes its documents for: knowledge classes, code and reasoning, languages.
Each part is a source of its own, so that a mix may down-sample what there is too much of (paper 3.1.1, 3.1.2)."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml

from llama3.artifacts.files import fsync_tree, publish, temporary_beside
from llama3.data.corpus import Corpus
from llama3.data.documents import DocumentBatch
from llama3.data.finding import known_endings
from llama3.data.text_model import TextModel
from llama3.errors import ArtifactError

THERE = ArtifactError.declare("L3-CLS-060", "is there already", fix="choose another --out, or remove it")

SNIPPET, ENDING = "sources.yaml", ".jsonl"
UNSURE = "unsure"
"""The part of documents whose likeliest label is not likely enough."""
MOST_OPEN = 256
"""Files at a time: models with more labels in use give the rest to the part of the unsure."""


def part_corpus(corpus: Path, model: TextModel, out: Path, least: float) -> dict[str, dict[str, int]]:
    """Writes the folder `out`: a .jsonl of each label that documents have, {text, url, date, p}, and
    sources.yaml, the `data` that reads them. Returns documents and bytes by part.

    A document's label is its likeliest, where that has a probability of at least `least`. Nothing is there before all
    of it is. Raises ArtifactError (L3-CLS-060) where `out` is there, DataError where the corpus cannot be read.
    """
    if os.path.lexists(out):
        raise THERE(out)
    temporary = temporary_beside(out)
    temporary.mkdir(parents=True)
    counts: dict[str, dict[str, int]] = {}
    try:
        with ExitStack() as open_files:
            files: dict[str, IO[str]] = {}
            for batch in Corpus(corpus).documents(None, batch_size=256):
                for label, row in _labelled(batch, model, least):
                    name = part_name(label)
                    name = name if name in files or len(files) < MOST_OPEN else UNSURE
                    if name not in files:
                        path = temporary / f"{name}{ENDING}"
                        files[name] = open_files.enter_context(path.open("w", encoding="utf-8"))
                    files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
                    cell = counts.setdefault(name, {"documents": 0, "bytes": 0})
                    cell["documents"] += 1
                    cell["bytes"] += len(row["text"].encode())
        reader = dict(known_endings())[ENDING]
        sources = [{"name": reader, "path": str(out / f"{name}{ENDING}"), "source": name} for name in sorted(counts)]
        (temporary / SNIPPET).write_text(yaml.safe_dump({"data": {"sources": sources}}, sort_keys=False))
        fsync_tree(temporary)
        publish(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return dict(sorted(counts.items()))


def _labelled(batch: DocumentBatch, model: TextModel, least: float) -> Iterator[tuple[str, dict[str, Any]]]:
    found_DL = model.probabilities(batch.texts)
    columns = [batch.column(name) for name in ("text", "url", "date")]
    for p_L, (text, url, date) in zip(found_DL, zip(*columns, strict=True), strict=True):
        place = int(np.argmax(p_L))
        label = model.labels[place] if p_L[place] >= least else UNSURE
        yield label, {"text": text, "url": url, "date": date, "p": round(float(p_L[place]), 6)}


def part_name(label: str) -> str:
    """A label as the name of a file and a source."""
    return re.sub(r"[^\w.+-]", "_", label).lstrip(".") or "_"
