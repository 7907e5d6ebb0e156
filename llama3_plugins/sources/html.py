"""HTML pages: the main text without navigation, with code, formulas and alternative texts kept."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from llama3.errors import DataError
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardFile,
    ShardRef,
    origin_of,
    read_bytes,
    read_page,
    shards_of,
)
from llama3_plugins.sources.endings import PAGES

FILES_PER_SHARD = 256
MOST_UNDECODABLE = 0.01
"""Of a page's characters; with more it is no text, or not in the encoding that it declares."""


class HtmlOptions(FileOptions):
    """Options of the `html` source."""

    source: str = Field("html", min_length=1, description="label of the documents, weighted by data.mix")
    max_document_bytes: int = Field(16 << 20, ge=1, description="larger pages are rejected unread")


class HtmlSource:
    """A page, the pages of a folder, or those that match a pattern."""

    def __init__(self, options: HtmlOptions) -> None:
        self.options = options

    def shards(self) -> list[ShardRef]:
        limit = self.options.max_document_bytes
        return shards_of(self.options, PAGES, files_per_shard=FILES_PER_SHARD, unread_above=limit)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        for file in shard.files:
            text = self._text(file, collector)
            if text:
                yield from collector.add(text, file.path, origin=origin_of(options, file.path))
        yield from collector.rest()

    def _text(self, file: ShardFile, collector: Collector) -> str:
        """The page's text, or "" after its rejection was logged: no page takes its neighbours with it."""
        data = read_bytes(file, collector, self.options.max_document_bytes)
        if data is None:
            return ""
        try:
            page = read_page(data)
        except DataError as error:
            collector.reject(file.path, "broken_page", str(error))
            return ""
        if page.undecodable > MOST_UNDECODABLE * page.characters:
            detail = f"{page.undecodable} of {page.characters} characters are none in {page.encoding}"
            collector.reject(file.path, "not_text", detail, page.undecodable / page.characters)
            return ""
        if not page.text:
            collector.reject(file.path, "no_text", "the page has no main text")
        return page.text
