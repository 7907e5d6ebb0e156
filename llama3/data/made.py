"""Reading the `texts` artifact: text that a model made, as a source of the curation.

rows.jsonl   text, url, language, kind, origin, and where it came from: task, of (a document), model, seed ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama3.artifacts import Artifact
from llama3.config.synthesis import SYNTHETIC
from llama3.data.documents import DocumentBatch, ShardRef
from llama3.data.reading import Collector

ROWS = "rows.jsonl"


class MadeTexts:
    """A `Source` (llama3.data.documents) of one shard, whose name does not tell where the run lies."""

    def __init__(self, texts: Artifact) -> None:
        self.texts = texts

    def shards(self) -> list[ShardRef]:
        return [
            ShardRef(
                SYNTHETIC, f"{SYNTHETIC}/{ROWS}", bytes=self.texts.file(ROWS).stat().st_size, stamp=self.texts.hash
            )
        ]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        """The documents; each falls on the side of the held-out split of the one that it was made of."""
        collector = Collector(SYNTHETIC)
        for row in _rows(self.texts.file(ROWS)):
            yield from collector.add(
                row["text"], row["url"], origin=row["origin"], language=row["language"], kind=row["kind"]
            )
        yield from collector.rest()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
