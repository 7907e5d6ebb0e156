"""HTTP responses as crawlers store them: head and body, with the body's chunks and compression undone.

Crawlers often store a decoded body under the head of the encoded one. So an encoding is undone where the body is in
it, and left alone where it is not.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import zstandard

from llama3_plugins.sources.warc_records import parsed_header

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)


class NoPageError(Exception):
    """No page can be had of this response: `reason` is one word, the message says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `body` is decoded."""

    status: int
    content_type: str
    """Media type in lower case, "" where none is told."""
    charset: str
    """As the head has it, "" where it has none."""
    body: bytes


def read_response(content: bytes, limit: int) -> Response:
    """The response in the content of a record. Raises NoPageError, also for a body of more than `limit` bytes."""
    status = _STATUS.match(content)
    if not status:
        raise NoPageError("no_http", "the content begins with no status line")
    end = _HEAD_END.search(content)
    if not end:
        raise NoPageError("no_http", "its head does not end")
    header = parsed_header(content[: end.start()])
    body = content[end.end() :]
    if "chunked" in header.get("transfer-encoding", "").lower():
        body = _joined(body)
    for encoding in reversed(header.get("content-encoding", "").lower().split(",")):
        body = _decoded(body, encoding.strip(), limit)
    media, charset = content_type(header.get("content-type", ""))
    return Response(int(status[1]), media, charset, body)


def content_type(value: str) -> tuple[str, str]:
    """(media type, charset) of a header's value, "" for what it does not tell."""
    charset = _CHARSET.search(value)
    return value.partition(";")[0].strip().lower(), charset[1] if charset else ""


def _joined(body: bytes) -> bytes:
    """The chunks put together, or the body as it is where it begins with none."""
    pieces: list[bytes] = []
    at = 0
    while True:
        size = _CHUNK.match(body, at)
        if not size:
            if not pieces:
                return body
            raise NoPageError("broken_chunks", f"no chunk begins at byte {at} of the body")
        length = int(size[1], 16)
        if length == 0:
            return b"".join(pieces)
        piece = body[size.end() : size.end() + length]
        if len(piece) < length:
            if not pieces and len(body) < length:
                return body
            raise NoPageError("broken_chunks", f"a chunk of {length} bytes has {len(piece)}")
        pieces.append(piece)
        at = size.end() + length
        at += 2 if body[at : at + 2] == b"\r\n" else body[at : at + 1] == b"\n"


def _decoded(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        return _inflated(body, 31, limit)
    if encoding == "deflate" and body and not body.lstrip().startswith(b"<"):
        is_zlib = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflated(body, 15 if is_zlib else -15, limit)
    if encoding == "zstd" and body.startswith(b"\x28\xb5\x2f\xfd"):
        return _unzstd(body, limit)
    if encoding == "br" and not body.lstrip().startswith(b"<"):
        raise NoPageError("unknown_encoding", "its body is in Brotli")
    return body


def _inflated(body: bytes, bits: int, limit: int) -> bytes:
    inflate = zlib.decompressobj(bits)
    try:
        data = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise NoPageError("broken_encoding", str(error)) from error
    return _whole(data, inflate.eof, limit)


def _unzstd(body: bytes, limit: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(body) as reader:
            data = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise NoPageError("broken_encoding", str(error)) from error
    return _whole(data, True, limit)


def _whole(data: bytes, ended: bool, limit: int) -> bytes:
    if len(data) > limit:
        raise NoPageError("too_large", f"the body has more than {limit} bytes")
    if not ended:
        raise NoPageError("broken_encoding", "the body ends inside its compressed stream")
    return data
