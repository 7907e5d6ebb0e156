"""Text files, plain or compressed: every file is a document."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from llama3.sources import Collector, DocumentBatch, FileOptions, Kind, ShardRef, decode_file, origin_of, shards_of
from llama3_plugins.sources.packed import read_unpacked, unpacked_name

FILES_PER_SHARD = 1024
CODE = {
    ".c": "c", ".cc": "c++", ".cpp": "c++", ".cs": "c#", ".css": "css", ".go": "go", ".h": "c", ".hpp": "c++",
    ".java": "java", ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lua": "lua", ".php": "php",
    ".pl": "perl", ".py": "python", ".pyi": "python", ".r": "r", ".rb": "ruby", ".rs": "rust", ".scala": "scala",
    ".sh": "shell", ".sql": "sql", ".swift": "swift", ".ts": "typescript", ".tsx": "typescript",
}  # fmt: skip


class FilesOptions(FileOptions):
    """Options of the `files` source."""

    source: str = Field("files", min_length=1, description="label of the documents, weighted by data.mix")
    detect_code: bool = Field(True, description="treat files with the suffix of a programming language as code")


class FilesSource:
    """A file, the files of a folder, or those that match a pattern."""

    def __init__(self, options: FilesOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        limit = self.options.max_document_bytes
        return shards_of(self.options, files_per_shard=FILES_PER_SHARD, unread_above=limit)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        for file in shard.files:
            data = read_unpacked(file, collector, options.max_document_bytes)
            text = None if data is None else decode_file(data, file.path, collector)
            if text is not None:
                language = CODE.get(unpacked_name(file.path).suffix.lower()) if options.detect_code else None
                kind: Kind = "code" if language else options.kind
                origin = origin_of(options, file.path)
                yield from collector.add(
                    text, file.path, origin=origin, language=language or options.language, kind=kind
                )
        yield from collector.rest()
