"""HTML pages: the main text without navigation, with code, formulas and alternative texts kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    decode,
    find_files,
    origin_of,
    read_bytes,
    shard_of,
)
from llama3_plugins.sources.html_text import main_text

FILES_PER_SHARD = 256
CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)


class HtmlOptions(FileOptions):
    """Options of the `html` source."""

    source: str = Field("html", min_length=1, description="label of the documents, weighted by data.mix")
    max_document_bytes: int = Field(16 << 20, ge=1, description="larger pages are rejected unread")


class HtmlSource:
    """A page, the pages of a folder (.html, .htm, .xhtml), or those that match a pattern."""

    def __init__(self, options: HtmlOptions) -> None:
        self.options = options

    def _files(self) -> list[Path]:
        return find_files(self.options, (".html", ".htm", ".xhtml"))

    def shards(self) -> list[ShardRef]:
        files = self._files()
        parts = [files[at : at + FILES_PER_SHARD] for at in range(0, len(files), FILES_PER_SHARD)]
        return [shard_of(self.options.source, self.options.path, part, n) for n, part in enumerate(parts)]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        start = shard.part * FILES_PER_SHARD
        for path in self._files()[start : start + FILES_PER_SHARD]:
            page = read_page(path, collector, options.max_document_bytes)
            if page is None:
                continue
            text = main_text(page)
            if text:
                yield from collector.add(text, str(path), origin=origin_of(options, path))
            else:
                collector.reject(str(path), "no_text", "the page has no main text")
        yield from collector.rest()


def read_page(path: Path, collector: Collector, max_bytes: int) -> str | None:
    """The markup of a page in its declared encoding (UTF-8 where it declares none), or None after a rejection."""
    data = read_bytes(path, collector, max_bytes)
    if data is None:
        return None
    declared = CHARSET.search(data[:4096])
    encoding = declared.group(1).decode("ascii") if declared else "utf-8"
    return decode(data, str(path), collector, encoding)
