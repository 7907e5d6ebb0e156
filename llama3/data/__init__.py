"""From raw text to token rows: documents and their sources, deduplication, curation, token shards, the loader.

The parts stand alone, in the order of a run: `main_text` takes the text of a page, `Deduplicator` finds exact and near
duplicates in any collection of texts, `Decontaminator` the examples of benchmarks, `TextModel` gives texts the labels
of a fastText classifier, `diversity` tells how varied they are, `ShardWriter` writes texts as token shards,
`TokenLoader` reads them in an order that is a pure function of plan, seed and index, `export_tokens` writes them as
files of other tools, and `MegatronFile` and `DatatroveFile` read those (`portions` gives their documents).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama3.data.datatrove import DatatroveFile
    from llama3.data.decontaminate import Decontaminator
    from llama3.data.dedup import Deduplicator
    from llama3.data.exported import export_tokens
    from llama3.data.html import Page, main_text, read_page
    from llama3.data.loader import TokenLoader
    from llama3.data.megatron import MegatronFile
    from llama3.data.shard_writer import ShardWriter
    from llama3.data.text_model import TextModel
    from llama3.data.token_files import portions
    from llama3.data.variety import Diversity, diversity

__all__ = [
    "DatatroveFile",
    "Decontaminator",
    "Deduplicator",
    "Diversity",
    "MegatronFile",
    "Page",
    "ShardWriter",
    "TextModel",
    "TokenLoader",
    "diversity",
    "export_tokens",
    "main_text",
    "portions",
    "read_page",
]

_HOME = {
    "DatatroveFile": "llama3.data.datatrove",
    "Decontaminator": "llama3.data.decontaminate",
    "Deduplicator": "llama3.data.dedup",
    "Diversity": "llama3.data.variety",
    "MegatronFile": "llama3.data.megatron",
    "Page": "llama3.data.html",
    "ShardWriter": "llama3.data.shard_writer",
    "TextModel": "llama3.data.text_model",
    "TokenLoader": "llama3.data.loader",
    "diversity": "llama3.data.variety",
    "export_tokens": "llama3.data.exported",
    "main_text": "llama3.data.html",
    "portions": "llama3.data.token_files",
    "read_page": "llama3.data.html",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
