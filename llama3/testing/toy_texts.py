"""A few documents for conformance tests, and a corpus of them. Torch-free."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llama3.data.corpus import DOCUMENTS, Corpus
from llama3.data.documents import DocumentBatch
from llama3.data.tables import part_name

_WORDS = ("river", "stone", "bridge", "town", "the", "a", "walks", "falls", "under", "over", "and", "with", "winter")


def sentences(count: int, seed: int) -> str:
    """`count` sentences that no other seed gives."""
    rng = random.Random(seed)
    return " ".join(f"{' '.join(rng.choice(_WORDS) for _ in range(9)).capitalize()}." for _ in range(count))


PROSE = (
    sentences(30, 1),
    sentences(3, 2),
    "\n".join([sentences(1, 3)] * 40),
    "",
    "\u0000\ufffd\u202e \U0001f999 e\u0301",
    "- item\n" * 60 + "more...",
    "# # # ### ... ... ...",
    "x" * 5000,
)
"""Ordinary, short, repeated lines, empty, odd characters, a list, marks without words, one endless word."""
CODE = (
    "\n".join(f"def f{i}(x):\n    return x + {i}\n" for i in range(30)),
    "import os\n",
    "0," * 4000,
)
"""Ordinary, one line, a table in one line."""


def toy_corpus(folder: Path) -> Corpus:
    """A corpus on disk: eight documents to train on, four held out."""
    texts = [sentences(12, 100 + number) for number in range(12)]
    records = DocumentBatch.of(texts, source="toy", urls=[f"toy:{n}" for n in range(12)], language="en").records
    columns = {
        "shard": pa.array(["toy:0"] * 12),
        "position": pa.array(np.arange(12)),
        "lines_dropped": pa.array(np.zeros(12, np.int64)),
        "split": pa.array(["train"] * 8 + ["held_out"] * 4),
    }
    for name, values in columns.items():
        records = records.append_column(name, values)
    (folder / DOCUMENTS).mkdir()
    pq.write_table(pa.Table.from_batches([records]), folder / DOCUMENTS / part_name(0))
    return Corpus(folder)
