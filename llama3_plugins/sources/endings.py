"""Endings of the files that each source reads."""

PACKED = ("", ".gz", ".zst", ".zstd", ".bz2", ".xz")
JSON_LINES = tuple(f"{name}{packed}" for name in (".jsonl", ".ndjson", ".json", ".jsonlines") for packed in PACKED)
TABLES = tuple(f"{name}{packed}" for name in (".csv", ".tsv") for packed in PACKED)
ARCHIVES = tuple(f"{name}{packed}" for name in (".warc", ".wet", ".warc.wet") for packed in PACKED)
PARQUET = (".parquet", ".pq")
PAGES = tuple(f"{name}{packed}" for name in (".html", ".htm", ".xhtml", ".xht", ".shtml") for packed in PACKED)
ALL_OTHERS = ("",)
