"""HTML pages, plain or compressed: the main text without navigation, with code, formulas and alternative texts kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from llama3.errors import DataError
from llama3.sources import (
    Collector,
    DocumentBatch,
    FileOptions,
    ShardRef,
    origin_of,
    read_page,
    shards_of,
)
from llama3_plugins.sources.endings import PAGES
from llama3_plugins.sources.extractors import Extractor, library_extractor
from llama3_plugins.sources.packed import read_unpacked

FILES_PER_SHARD = 256
MOST_UNDECODABLE = 0.01
"""Of a page's characters; with more it is no text, or not in the encoding that it declares."""


class PageOptions(FileOptions):
    """Options of sources that read pages."""

    max_document_bytes: int = Field(16 << 20, ge=1, description="larger pages are rejected unread")
    extractor: Extractor = Field("core", description="what finds the main text: our own, or a library (an extra)")


class HtmlOptions(PageOptions):
    """Options of the `html` source."""

    source: str = Field("html", min_length=1, description="label of the documents, weighted by data.mix")


class HtmlSource:
    """A page, the pages of a folder, or those that match a pattern."""

    def __init__(self, options: HtmlOptions) -> None:
        self.options = options
        self._library = library_extractor(options.extractor)

    def shards(self) -> list[ShardRef]:
        limit = self.options.max_document_bytes
        return shards_of(self.options, PAGES, files_per_shard=FILES_PER_SHARD, unread_above=limit)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        for file in shard.files:
            data = read_unpacked(file, collector, options.max_document_bytes)
            text = "" if data is None else page_text(data, file.path, collector, self._library)
            if text:
                yield from collector.add(text, file.path, origin=origin_of(options, file.path))
        yield from collector.rest()


def page_text(data: bytes, where: str, collector: Collector, library: Callable[[str], str] | None = None) -> str:
    """The main text of a page, by a library where one is given, or "" after its rejection was logged: no page takes
    its neighbours with it."""
    try:
        page = read_page(data)
    except DataError as error:
        collector.reject(where, "broken_page", str(error))
        return ""
    if page.undecodable > MOST_UNDECODABLE * page.characters:
        detail = f"{page.undecodable} of {page.characters} characters are none in {page.encoding}"
        collector.reject(where, "not_text", detail, page.undecodable / page.characters)
        return ""
    try:
        text = page.text if library is None else library(_decoded(data, page.encoding))
    except Exception as error:  # of a library that takes pages of anybody
        collector.reject(where, "broken_page", f"{type(error).__name__}: {error}")
        return ""
    if not text:
        collector.reject(where, "no_text", "the page has no main text")
    return text


def _decoded(data: bytes, encoding: str) -> str:
    """The page, which is in `encoding` (a name of the encoding standard), for libraries that take no bytes."""
    try:
        return data.decode(encoding, "replace").removeprefix("\ufeff")
    except LookupError:
        return data.decode("utf-8", "replace")
