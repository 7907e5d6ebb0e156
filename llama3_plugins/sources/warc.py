"""Web archives (WARC, WET): the main text of the pages that a crawl has stored.

A response is a page where its status is 2xx and its type HTML or plain text; `resource` records are pages without an
HTTP head, `conversion` records (WET) are texts already. All else is told with its reason; records that hold no
page by their kind (requests, crawl metadata) are counted, a line for a kind and file. A damaged record costs no other.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from llama3.errors import DataError
from llama3.sources import Collector, DocumentBatch, ShardRef, decode, require_unchanged, shards_of
from llama3_plugins.sources.endings import ARCHIVES
from llama3_plugins.sources.extractors import library_extractor
from llama3_plugins.sources.html import MOST_UNDECODABLE, PageOptions, page_text
from llama3_plugins.sources.http_body import NoPageError, content_type, read_response
from llama3_plugins.sources.packed import BROKEN, Damaged
from llama3_plugins.sources.warc_records import BrokenRecord, WarcRecord, warc_records

CUT_OFF = DataError.declare("L3-SRC-020", "cannot be read to its end", why="{error}")
DAMAGED = DataError.declare(
    "L3-SRC-022",
    "a damaged record ({reason})",
    why="{detail}",
    fix="fetch the archive again, or read what is whole of it with damaged: keep",
)

HTML = ("text/html", "application/xhtml+xml")
LANGUAGES = {
    "ara": "ar", "ben": "bn", "bul": "bg", "cat": "ca", "ces": "cs", "dan": "da", "deu": "de", "ell": "el",
    "eng": "en", "est": "et", "fas": "fa", "fin": "fi", "fra": "fr", "heb": "he", "hin": "hi", "hrv": "hr",
    "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "lav": "lv", "lit": "lt", "nld": "nl",
    "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rus": "ru", "slk": "sk", "slv": "sl", "spa": "es",
    "srp": "sr", "swe": "sv", "tam": "ta", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi",
    "zho": "zh",
}  # fmt: skip
"""ISO 639-3, as crawls tell languages, to ISO 639-1; others stay as they are."""

AS_BROWSERS = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949",
}  # fmt: skip
"""Charsets whose names the encoding standard gives to larger ones."""


class WarcOptions(PageOptions):
    """Options of the `warc` source."""

    source: str = Field("warc", min_length=1, description="label of the documents, weighted by data.mix")
    damaged: Damaged = Field(
        "keep", description="a file with a damaged record: keep the other records, or quarantine the file"
    )


@dataclass(frozen=True, slots=True)
class Payload:
    """What a record has for a page, and what is said of it."""

    data: bytes
    media: str
    charset: str


class WarcSource:
    """A shard is a file."""

    def __init__(self, options: WarcOptions) -> None:
        self.options = options
        self._library = library_extractor(options.extractor)

    def shards(self) -> list[ShardRef]:
        return shards_of(self.options, ARCHIVES)

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        options = self.options
        collector = Collector(options.source, options.language, options.kind)
        others: Counter[str] = Counter()
        try:
            for record in warc_records(Path(shard.files[0].path), options.max_document_bytes):
                if isinstance(record, BrokenRecord):
                    if options.damaged == "quarantine" and record.reason != "too_large":
                        raise DAMAGED(f"{shard.location}@{record.where}", reason=record.reason, detail=record.detail)
                    collector.reject(f"{shard.location}@{record.where}", record.reason, record.detail)
                    continue
                kind = record.header.get("warc-type", "").lower()
                if kind in ("response", "resource", "conversion"):
                    yield from self._document(record, kind, f"{shard.location}@{record.where}", collector)
                elif kind:
                    others[kind] += 1
                else:
                    collector.reject(f"{shard.location}@{record.where}", "no_type", "its header has no WARC-Type")
        except BROKEN as error:
            raise CUT_OFF(shard.location, error=error) from error
        require_unchanged(shard)
        for kind, count in sorted(others.items()):
            collector.reject(shard.location, "no_page", f"{count} records of type {kind}", count)
        yield from collector.rest()

    def _document(self, record: WarcRecord, kind: str, where: str, collector: Collector) -> Iterator[DocumentBatch]:
        header = record.header
        url = header.get("warc-target-uri", "").strip("<>")
        named = f"{where} {url}" if url else where
        if cut := header.get("warc-truncated"):
            return collector.reject(named, "cut_off", f"the crawler cut it off: {cut}")
        try:
            text = self._text(self._payload(record, kind), named, collector)
        except NoPageError as error:
            return collector.reject(named, error.reason, str(error))
        if text:
            language = header.get("warc-identified-content-language", "").partition(",")[0].strip().lower()
            tag = LANGUAGES.get(language, language) if self.options.language == "und" else ""
            yield from collector.add(text, url or where, language=tag, date=header.get("warc-date", ""))

    def _payload(self, record: WarcRecord, kind: str) -> Payload:
        media, charset = content_type(record.header.get("content-type", ""))
        if kind != "response" or not media.startswith("application/http"):
            if kind == "response" and record.content.startswith(b"HTTP/"):
                media = "application/http"
            else:
                return Payload(record.content, media, charset)
        response = read_response(record.content, self.options.max_document_bytes)
        if not 200 <= response.status < 300:
            raise NoPageError("http_status", f"status {response.status}")
        found = record.header.get("warc-identified-payload-type", "").lower()
        return Payload(response.body, found or response.content_type, response.charset)

    def _text(self, payload: Payload, named: str, collector: Collector) -> str:
        """The text of a payload, or "" after its rejection was logged."""
        data, media = payload.data, payload.media
        if media in HTML or (not media and data.lstrip()[:1] == b"<"):
            return page_text(in_utf8(data, payload.charset), named, collector, self._library)
        if media != "text/plain":
            raise NoPageError("no_html", f"of type {media}" if media else "of no told type")
        text = decode(in_utf8(data, payload.charset), named, collector)
        if text == "":
            raise NoPageError("no_text", "it is empty")
        return text or ""


def in_utf8(data: bytes, charset: str) -> bytes:
    """A page in UTF-8, marked as such, where the charset that its head tells is right; else as it is, for the
    page itself to tell. A byte order mark goes before any head, as in browsers."""
    if not charset or data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data
    try:
        codec = codecs.lookup(charset).name
        text = data.decode(AS_BROWSERS.get(codec, codec), "replace")
    except (LookupError, UnicodeError, ValueError, TypeError):
        return data
    if text.count("\ufffd") > MOST_UNDECODABLE * len(text):
        return data
    return codecs.BOM_UTF8 + text.encode("utf-8", "replace")
