"""From raw text to token rows: documents and their sources, deduplication, curation, token shards, the loader.

The fast parts stand alone: `Deduplicator` finds exact and near duplicates in any collection of texts,
`Decontaminator` the examples of benchmarks,
`ShardWriter` writes texts as token shards, `TokenLoader` reads them in an order that is a pure function of plan, seed
and index.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.data.decontaminate import Decontaminator
    from llama3.data.dedup import Deduplicator
    from llama3.data.loader import TokenLoader
    from llama3.data.shard_writer import ShardWriter

__all__ = ["Decontaminator", "Deduplicator", "ShardWriter", "TokenLoader"]

_HOME = {
    "Decontaminator": "llama3.data.decontaminate",
    "Deduplicator": "llama3.data.dedup",
    "ShardWriter": "llama3.data.shard_writer",
    "TokenLoader": "llama3.data.loader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
