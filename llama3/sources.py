"""What authors of sources need (hook `llama3_sources`). Torch-free. Stable: names go only with a new version of the
protocols.
"""

from __future__ import annotations

from llama3.data.columns import is_text, plain
from llama3.data.documents import DocumentBatch, Kind, Reject, ShardFile, ShardRef, Source
from llama3.data.html import main_text, read_page
from llama3.data.reading import (
    BATCH_BYTES,
    Collector,
    FileOptions,
    bounded_lines,
    decode,
    decode_file,
    listed,
    origin_of,
    pieces_of,
    read_bytes,
    read_document,
    require_unchanged,
    shard_of,
    shards_of,
)
from llama3.data.remembered import remembered
from llama3.data.tables import open_parquet

__all__ = [
    "BATCH_BYTES",
    "Collector",
    "DocumentBatch",
    "FileOptions",
    "Kind",
    "Reject",
    "ShardFile",
    "ShardRef",
    "Source",
    "bounded_lines",
    "decode",
    "decode_file",
    "is_text",
    "listed",
    "main_text",
    "open_parquet",
    "origin_of",
    "pieces_of",
    "plain",
    "read_bytes",
    "read_document",
    "read_page",
    "remembered",
    "require_unchanged",
    "shard_of",
    "shards_of",
]
