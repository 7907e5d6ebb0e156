"""Of a few documents none may happen to be held out: how much of them must be, so that something can be measured."""

from __future__ import annotations

import math

from llama3.artifacts import Artifact
from llama3.data.corpus import Corpus, place_of
from llama3.data.shards import NO_DOCUMENT
from llama3.errors import DataError

NOTHING_HELD_OUT = DataError.declare(
    "L3-DAT-090",
    "of {documents} documents none can be held out, so that nothing could be measured",
    why="documents of one origin (a file, a page) are held out together or not at all, and one must be trained on",
    fix="add documents of another origin",
)


def held_out_documents(corpus: Artifact) -> int:
    """How many documents of a corpus are held out."""
    return sum(cell["documents"] for cell in corpus.metrics["funnel"].get("held_out", {}).values())


def enough_for_one(corpus: Artifact) -> float:
    """The share that holds out the documents of one origin.

    Raises DataError, before a model is trained that nothing would measure, where all have the same one (L3-DAT-090),
    or there is none (L3-DAT-207).
    """
    batches = Corpus(corpus.path).documents(None)
    origins = [origin for batch in batches for origin in batch.column("origin")]
    if not origins:
        raise NO_DOCUMENT(corpus.path)
    if len(set(origins)) < 2:
        raise NOTHING_HELD_OUT("data.held_out", documents=len(origins))
    return math.nextafter(min(map(place_of, origins)), 1)
