"""A corpus in parts, each a source of its own, so that a mix may down-sample what there is too much of (paper 3.1.1,
3.1.2): by what a classifier takes its documents for (knowledge classes, code and reasoning, languages), or the best
documents of each language.

Letters: D documents of a batch, L labels.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
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

Part = tuple[str, dict[str, Any]]
"""The name of a part, and a row of it."""
SNIPPET, ENDING = "sources.yaml", ".jsonl"
UNSURE = "unsure"
"""The part of documents whose likeliest label is not likely enough."""
MOST_OPEN = 256
"""Files at a time: models with more labels in use give the rest to the part of the unsure."""
BATCH = 256


def part_corpus(corpus: Path, model: TextModel, out: Path, least: float) -> dict[str, dict[str, int]]:
    """Writes the documents of each label, the likeliest where that has a probability of at least `least`.

    See `write_parts`; rows are {text, url, date, p}. Raises DataError where the corpus cannot be read.
    """
    return write_parts(out, (row for batch in _batches(corpus) for row in _labelled(batch, model, least)))


def rank_corpus(
    corpus: Path, model: TextModel, out: Path, label: str, share: float, languages: TextModel | None = None
) -> dict[str, dict[str, int]]:
    """Writes the best `share` of the documents of each language, by the probability of `label`: so a language of which
    all is worse than English keeps its best too. `languages` tells the languages; None: the sources do.

    See `write_parts`; rows are {text, url, date, p}, a part is called as its language. Memory holds 8 bytes for each
    document. Raises ConfigError (L3-CLS-004) for a label that the model does not have, DataError where the corpus
    cannot be read.
    """
    model.require([label])
    scores: dict[str, list[np.ndarray]] = {}
    for batch in _batches(corpus):
        names_D, p_D = np.array(_languages(batch, languages), object), model.of_label(batch.texts, label)
        for name in sorted(set(names_D.tolist())):
            scores.setdefault(name, []).append(p_D[names_D == name])
    least = {name: _least(np.concatenate(parts), share) for name, parts in scores.items()}

    def best() -> Iterator[Part]:
        for batch in _batches(corpus):
            p_D = model.of_label(batch.texts, label).tolist()
            for name, p, row in zip(_languages(batch, languages), p_D, _rows(batch), strict=True):
                if p >= least[name]:
                    yield name, {**row, "p": p}

    return write_parts(out, best())


def _least(scores_N: np.ndarray, share: float) -> float:
    """The score of the worst document that is kept; documents with equal scores stay together."""
    kept = max(1, round(share * len(scores_N)))
    return float(np.sort(scores_N)[::-1][kept - 1])


def write_parts(out: Path, rows: Iterable[Part]) -> dict[str, dict[str, int]]:
    """Writes the folder `out`: a .jsonl of each part, and sources.yaml, the `data` that reads them. Returns documents
    and bytes by part. Nothing is there before all of it is.

    Raises ArtifactError (L3-CLS-060) where `out` is there.
    """
    if os.path.lexists(out):
        raise THERE(out)
    temporary = temporary_beside(out)
    temporary.mkdir(parents=True)
    try:
        counts = _written(temporary, rows)
        reader = dict(known_endings())[ENDING]
        sources = [{"name": reader, "path": str(out / f"{name}{ENDING}"), "source": name} for name in counts]
        (temporary / SNIPPET).write_text(yaml.safe_dump({"data": {"sources": sources}}, sort_keys=False))
        fsync_tree(temporary)
        publish(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return counts


def _written(folder: Path, rows: Iterable[Part]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    with ExitStack() as open_files:
        files: dict[str, IO[str]] = {}
        for label, row in rows:
            name = part_name(label)
            name = name if name in files or len(files) < MOST_OPEN else UNSURE
            if name not in files:
                path = folder / f"{name}{ENDING}"
                files[name] = open_files.enter_context(path.open("w", encoding="utf-8"))
            files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            cell = counts.setdefault(name, {"documents": 0, "bytes": 0})
            cell["documents"] += 1
            cell["bytes"] += len(row["text"].encode())
    return dict(sorted(counts.items()))


def _batches(corpus: Path) -> Iterator[DocumentBatch]:
    return Corpus(corpus).documents(None, batch_size=BATCH)


def _rows(batch: DocumentBatch) -> Iterator[dict[str, Any]]:
    columns = (batch.column(name) for name in ("text", "url", "date"))
    for text, url, date in zip(*columns, strict=True):
        yield {"text": text, "url": url, "date": date}


def _labelled(batch: DocumentBatch, model: TextModel, least: float) -> Iterator[Part]:
    for p_L, row in zip(model.probabilities(batch.texts), _rows(batch), strict=True):
        place = int(np.argmax(p_L))
        yield (model.labels[place] if p_L[place] >= least else UNSURE), {**row, "p": float(p_L[place])}


def _languages(batch: DocumentBatch, model: TextModel | None) -> list[str]:
    if model is None:
        return batch.column("language")
    return [model.labels[place] for place in model.probabilities(batch.texts).argmax(1).tolist()]


def part_name(label: str) -> str:
    """A label as the name of a file and a source."""
    return re.sub(r"[^\w.+-]", "_", label).lstrip(".") or "_"
