"""What authors of sources need (hook `llama3_sources`). Torch-free. Stable: names go only with a new version of the
protocols.
"""

from __future__ import annotations

from llama3.data.corpus import open_parquet
from llama3.data.documents import DocumentBatch, Kind, Reject, ShardRef, Source
from llama3.data.reading import (
    Collector,
    FileOptions,
    bounded_lines,
    decode,
    find_files,
    origin_of,
    read_bytes,
    read_document,
    shard_of,
)

__all__ = [
    "Collector",
    "DocumentBatch",
    "FileOptions",
    "Kind",
    "Reject",
    "ShardRef",
    "Source",
    "bounded_lines",
    "decode",
    "find_files",
    "open_parquet",
    "origin_of",
    "read_bytes",
    "read_document",
    "shard_of",
]
