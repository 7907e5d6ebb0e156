"""Text files: every file is a document."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    Kind,
    ShardRef,
    find_files,
    origin_of,
    read_document,
    shard_of,
)

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
        files = find_files(self.options)
        parts = [files[at : at + FILES_PER_SHARD] for at in range(0, len(files), FILES_PER_SHARD)]
        return [shard_of(self.options.source, self.options.path, part, n) for n, part in enumerate(parts)]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        start = shard.part * FILES_PER_SHARD
        for path in find_files(options)[start : start + FILES_PER_SHARD]:
            text = read_document(path, collector, options.max_document_bytes)
            if text is not None:
                language = CODE.get(path.suffix.lower()) if options.detect_code else None
                kind: Kind = "code" if language else options.kind
                yield from collector.add(
                    text, str(path), origin=origin_of(options, path), language=language or options.language, kind=kind
                )
        yield from collector.rest()
