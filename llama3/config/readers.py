"""Which source reads which files, where a folder is named in the place of a config."""

from __future__ import annotations

from collections.abc import Mapping

READER_BY_ENDING: Mapping[str, str] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".json"), "jsonl"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".warc", ".wet"), "warc"),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".xht", ".shtml"), "html"),
}
"""The source by the ending of a file, without that of its packing."""
READER_OF_OTHERS = "files"
PACKED = (".gz", ".zst", ".zstd", ".bz2", ".xz")
