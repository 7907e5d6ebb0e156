"""Web archives: every page of a good one is read as `warcio` reads it, and a damaged record costs no other."""

from __future__ import annotations

import gzip
import io
import random
import sys
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3.data.documents import Reject, Source
from llama3.errors import ConfigError, DataError
from llama3.plugins.registry import discover
from llama3_plugins.sources.warc_records import BrokenRecord, WarcRecord, warc_records


def build(**options: Any) -> Source:
    source = discover().build("sources", "warc", options)
    assert isinstance(source, Source)
    return source


def read(path: Path, **options: Any) -> tuple[dict[str, str], list[Reject]]:
    """Text by URL, and all rejects."""
    source = build(path=str(path), **options)
    batches = [batch for shard in source.shards() for batch in source.read(shard)]
    rows = [row for b in batches for row in zip(b.column("url"), b.texts, strict=True)]
    assert len(dict(rows)) == len(rows)
    return dict(rows), [reject for b in batches for reject in b.rejects]


def page(n: int) -> str:
    return f"<html><body><main><p>{prose(n, 40)}</p></main></body></html>"


def http(body: bytes | str, head: str = "Content-Type: text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    data = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + data


def record(content: bytes, url: str = "", kind: str = "response", length: int | None = None, **more: str) -> bytes:
    header = {"WARC-Type": kind, "Content-Type": "application/http; msgtype=response", "WARC-Date": "2023-04-05"}
    header |= {"WARC-Target-URI": url} if url else {}
    header |= {name.replace("_", "-"): value for name, value in more.items()}
    header |= {"Content-Length": str(len(content) if length is None else length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in header.items() if value != "")
    return f"WARC/1.0\r\n{lines}\r\n".encode() + content + b"\r\n\r\n"


def good(n: int) -> bytes:
    return record(http(page(n)), f"http://a.example/{n}")


PAGES = {f"http://a.example/{n}": prose(n, 40) for n in range(9)}


@pytest.mark.parametrize("ending", [".warc", ".warc.gz", ".warc.zst", ".one.warc.gz"])
def test_an_archive_of_pages(tmp_path: Path, ending: str) -> None:
    """Plain, a gzip member or zstd frame for each record, and all records in one member."""
    each = {".warc": bytes, ".warc.gz": gzip.compress, ".warc.zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"crawl{ending}"
    if ending in each:
        path.write_bytes(b"".join(each[ending](good(n)) for n in range(9)))
    else:
        path.write_bytes(gzip.compress(b"".join(map(good, range(9)))))
    assert read(path) == (PAGES, [])
    (batch,) = build(path=str(tmp_path), language="en").read(build(path=str(tmp_path)).shards()[0])
    assert batch.column("date") == ["2023-04-05"] * 9
    assert batch.column("origin") == list(PAGES)


def test_texts_of_a_wet_file_have_their_language(tmp_path: Path) -> None:
    rows = [("eng", "An English text.\n"), ("deu,eng", "Ein Text.\n"), ("xyz", "Another.\n"), ("", "None told.\n")]
    texts = {"Content_Type": "text/plain", "kind": "conversion"}
    path = tmp_path / "crawl.warc.wet.gz"
    path.write_bytes(
        b"".join(
            gzip.compress(
                record(text.encode(), f"http://a.example/{n}", **texts, WARC_Identified_Content_Language=language)
            )
            for n, (language, text) in enumerate(rows)
        )
    )
    source = build(path=str(path))
    (batch,) = source.read(source.shards()[0])
    assert batch.texts == [text for _, text in rows]
    assert batch.column("language") == ["en", "de", "xyz", "und"]


def chunked(data: bytes, size: int = 50) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(f"{len(piece):x};x=y\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


PAGE = page(1).encode()
ACCENTS = "<p>Ünïcode ïn thë pägë, äll öf ït wörds thät ä bröwser shöws, çà et là, ß.</p>"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Transfer-Encoding: chunked", chunked(PAGE)),
        ("Transfer-Encoding: chunked", PAGE),  # decoded by the crawler, under the head of the encoded body
        ("Content-Encoding: gzip", gzip.compress(PAGE)),
        ("Content-Encoding: gzip", PAGE),
        ("Content-Encoding: deflate", zlib.compress(PAGE)),
        ("Content-Encoding: deflate", raw_deflate(PAGE)),
        ("Content-Encoding: zstd", zstandard.ZstdCompressor().compress(PAGE)),
        ("Content-Encoding: br", PAGE),
        ("Content-Encoding: gzip\r\nTransfer-Encoding: chunked", chunked(gzip.compress(PAGE))),
        ("Content-Encoding: deflate, gzip", gzip.compress(zlib.compress(PAGE))),
    ],
)
def test_encodings_of_a_body(tmp_path: Path, head: str, body: bytes) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(record(http(body, f"Content-Type: text/html\r\n{head}"), "http://a.example/1"))
    assert read(path) == ({"http://a.example/1": prose(1, 40)}, [])


@pytest.mark.parametrize(
    ("told", "meta", "real"),
    [
        ("windows-1252", "", "cp1252"),
        ("ISO-8859-1", "", "cp1252"),
        ("utf-8", "", "utf-8"),
        ("iso-8859-15", "<meta charset=utf-8>", "iso-8859-15"),  # the head goes before the page
        ("", "<meta charset=iso-8859-15>", "iso-8859-15"),
        ("utf-8", "<meta charset=windows-1252>", "cp1252"),  # a head that is wrong
        ("no-such-charset", "<meta charset=windows-1252>", "cp1252"),
        ("latin1", "", "utf-8-sig"),  # a byte order mark goes before all
    ],
)
def test_charsets(tmp_path: Path, told: str, meta: str, real: str) -> None:
    path = tmp_path / "a.warc"
    head = f"Content-Type: text/html; charset={told}" if told else "Content-Type: text/html"
    path.write_bytes(record(http((meta + ACCENTS).encode(real), head), "http://a.example/"))
    rows, rejects = read(path)
    assert rejects == []
    assert rows == {"http://a.example/": ACCENTS[3:-4]}


def test_what_is_no_page_is_told(tmp_path: Path) -> None:
    limit = 4000
    url = "http://a.example/"
    bomb = gzip.compress(b"<p>" + b"x" * 100_000)
    records = {
        "http_status": record(http(page(0), status="404 Not Found"), url),
        "no_html": record(http(b"\x89PNG", "Content-Type: image/png"), url),
        "no_http": record(b"220 ftp.example\r\n\r\n", url),
        "cut_off": record(http(page(0)), url, WARC_Truncated="length"),
        "too_large": record(http("x" * limit), url),
        "no_text": record(http("<main></main>"), url),
        "not_text": record(http(random.Random(0).randbytes(1000)), url),
        "broken_encoding": record(http(gzip.compress(PAGE)[:-20], "Content-Encoding: gzip"), url),
        "broken_chunks": record(http(chunked(PAGE)[:-60], "Transfer-Encoding: chunked"), url),
        "unknown_encoding": record(http(b"\x0b\x02", "Content-Encoding: br"), url),
        "binary": record(http(b"a\0b", "Content-Type: text/plain"), url),
        "not_utf8": record(b"caf\xe9", url, "conversion", Content_Type="text/plain"),
        "no_type": record(b"x", url).replace(b"WARC-Type: response\r\n", b""),
        "bomb": record(http(bomb, "Content-Encoding: gzip\r\nContent-Type: text/html"), url),
    }
    others = [record(b"x", url, kind) for kind in ("warcinfo", "request", "metadata", "request")]
    path = tmp_path / "a.warc"
    path.write_bytes(good(1) + b"".join(records.values()) + b"".join(others) + good(2))
    rows, rejects = read(path, max_document_bytes=limit)
    assert list(rows) == ["http://a.example/1", "http://a.example/2"]
    assert [r.reason for r in rejects[: len(records)]] == ["too_large" if r == "bomb" else r for r in records]
    assert all(r.where.startswith(f"{path}@") for r in rejects[: len(records)])
    assert [(r.reason, r.detail, r.score) for r in rejects[len(records) :]] == [
        ("no_page", "1 records of type metadata", 1),
        ("no_page", "2 records of type request", 2),
        ("no_page", "1 records of type warcinfo", 1),
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("wrong_length", record(http(page(9)), "http://bad/", length=60)),
        ("wrong_length", record(http(page(9)), "http://bad/", length=600)),
        ("wrong_length", record(http(page(9)), "http://bad/", length=10**15)),
        ("no_length", record(http(page(9)), "http://bad/").replace(b"Content-Length", b"Content-Width")),
        ("no_length", record(http(page(9)), "http://bad/", length=10**30)),
        ("no_length", record(http(page(9)), "http://bad/").replace(b"Content-Length: ", b"Content-Length: -")),
        ("broken_header", b"no record at all\r\n\r\n"),
        ("broken_header", b"WARC/1.0\r\n" + b"x" * 200_000 + b"\r\n\r\n"),
        ("broken_header", b"WARC/1.0 \xff\x00" * 3 + b"\r\n"),
    ],
)
def test_a_broken_record_costs_no_other(tmp_path: Path, reason: str, bad: bytes, packed: bool) -> None:
    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    pieces = [good(1), bad, good(2), bad, bad, good(3)]
    path.write_bytes(b"".join(map(gzip.compress, pieces) if packed else pieces))
    rows, rejects = read(path)
    assert rows == {url: PAGES[url] for url in list(PAGES)[1:4]}
    assert {reject.reason for reject in rejects} == {reason}
    assert len(rejects) == 3 or (reason == "broken_header" and not packed and len(rejects) >= 2)


@pytest.mark.parametrize("length", ["-5", "1" + "0" * 30, "many"])
def test_a_length_that_is_none_is_told_as_what_it_is(tmp_path: Path, length: str) -> None:
    path = tmp_path / "a.warc"
    bad = record(http(page(9)), "http://bad/", length=77).replace(
        b"Content-Length: 77", f"Content-Length: {length}".encode()
    )
    path.write_bytes(good(1) + bad + good(2))
    rows, (reject,) = read(path)
    assert (len(rows), reject.reason) == (2, "no_length")
    assert f"its Content-Length is '{length}'" in reject.detail


@pytest.mark.parametrize("damage", ["flip", "cut", "cut_trailer", "noise", "zeros"])
def test_a_damaged_member_costs_no_other(tmp_path: Path, damage: str) -> None:
    members = [gzip.compress(good(n)) for n in range(9)]
    bad = bytearray(members[4])
    if damage == "flip":
        bad[len(bad) // 2] ^= 0x55
    cut = {"cut": len(bad) // 2, "cut_trailer": len(bad) - 4}.get(damage, len(bad))
    members[4] = bytes(bad[:cut]) if damage not in ("noise", "zeros") else members[4]
    between = {"noise": b"\x1f\x8b\x08noise" * 50, "zeros": bytes(100_000)}.get(damage, b"")
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(members[:5]) + between + b"".join(members[5:]))
    rows, rejects = read(path)
    lost = {"http://a.example/4"} if damage in ("flip", "cut", "cut_trailer") else set()
    assert rows == {url: text for url, text in PAGES.items() if url not in lost}
    assert [r.reason for r in rejects] == ["broken_archive"] * (damage != "zeros")
    assert all(r.where.startswith(f"{path}@") for r in rejects)


def test_a_file_that_ends_too_early_keeps_what_is_whole(tmp_path: Path) -> None:
    whole = b"".join(gzip.compress(good(n)) for n in range(9))
    path = tmp_path / "a.warc.gz"
    path.write_bytes(whole[:-100])
    rows, rejects = read(path)
    assert list(rows) == list(PAGES)[:8]
    assert [(r.reason, "ends inside" in r.detail) for r in rejects] == [("broken_archive", True)]
    with pytest.raises(DataError, match=r"L3-SRC-022"):
        read(path, damaged="quarantine")
    plain = tmp_path / "b.warc"
    plain.write_bytes(b"".join(map(good, range(9)))[:-100])
    rows, rejects = read(plain)
    assert (list(rows), [r.reason for r in rejects]) == (list(PAGES)[:8], ["wrong_length"])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), packed=st.booleans())
def test_any_damage_is_told_and_stays_where_it_is(tmp_path_factory: pytest.TempPathFactory, data: Any, packed: bool):
    """Bytes of a file are changed, cut out or put in: records that they do not touch are read as before."""
    members = [gzip.compress(good(n), mtime=0) if packed else good(n) for n in range(5)]
    at = data.draw(st.integers(0, 4))
    member = members[at]
    start = data.draw(st.integers(0, len(member) - 1))
    stop = data.draw(st.integers(start, len(member)))
    members[at] = member[:start] + data.draw(st.binary(max_size=40)) + member[stop:]
    path = tmp_path_factory.mktemp("warc") / ("a.warc.gz" if packed else "a.warc")
    path.write_bytes(b"".join(members))
    found = list(warc_records(path, 1 << 20))
    urls = [record.header["warc-target-uri"] for record in found if isinstance(record, WarcRecord)
            and record.header.get("warc-target-uri") in PAGES and record.content == http(page(int(
                record.header["warc-target-uri"][-1])))]  # fmt: skip
    untouched = [f"http://a.example/{n}" for n in range(5) if n != at]
    # Without members, where the end of a record is cut off the next one's first line is none any more.
    lost = [url for url in untouched if url not in urls]
    assert not lost or (not packed and lost == [f"http://a.example/{at + 1}"] and stop > len(member) - 5)
    whole = sum(isinstance(record, WarcRecord) for record in found)
    assert whole == 5 or any(isinstance(record, BrokenRecord) for record in found) or not members[at].strip(b"\0\r\n")


def test_memory_is_bounded_by_the_limit(tmp_path: Path) -> None:
    """Of a record that is too large, packed and plain, no more than a piece is held."""
    large = record(http("x" * (60 << 20)), "http://large/")
    for name, data in {"a.warc": large, "a.warc.gz": gzip.compress(large, 1)}.items():
        (tmp_path / name).write_bytes(data + (gzip.compress(good(1)) if name.endswith("gz") else good(1)))
    del large, data
    for name in ("a.warc", "a.warc.gz"):
        tracemalloc.start()
        found = list(warc_records(tmp_path / name, 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [type(record) for record in found] == [BrokenRecord, WarcRecord]
        assert peak < 4 << 20


def test_another_extractor_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(ConfigError, match=r"(?s)llama3\[trafilatura\].*L3-SRC-021"):
        build(path="x", extractor="trafilatura")


@pytest.mark.parametrize("library", ["resiliparse", "trafilatura"])
def test_another_extractor_reads_the_same_pages(tmp_path: Path, library: str) -> None:
    pytest.importorskip(library, reason="an extra")
    path = tmp_path / "a.warc"
    accents = record(http(ACCENTS.encode("cp1252"), "Content-Type: text/html; charset=windows-1252"), "http://b/")
    path.write_bytes(good(1) + accents)
    rows, _ = read(path, extractor=library)
    assert rows["http://a.example/1"].split() == prose(1, 40).split()
    assert rows.get("http://b/", ACCENTS[3:-4]) == ACCENTS[3:-4]


@pytest.mark.parametrize("packed", [False, True])
def test_records_are_those_that_warcio_reads(tmp_path: Path, packed: bool) -> None:
    """Also those of an archive that warcio writes."""
    warcio = pytest.importorskip("warcio", reason="the oracle is in the extra test")
    from warcio.archiveiterator import ArchiveIterator
    from warcio.statusandheaders import StatusAndHeaders

    path = tmp_path / ("a.warc.gz" if packed else "a.warc")
    with path.open("wb") as file:
        writer = warcio.warcwriter.WARCWriter(file, gzip=packed)
        file.flush()
        writer.write_record(writer.create_warcinfo_record("a", {"software": "x"}))
        for n in range(20):
            body = (page(n) + "é").encode() if n % 3 else gzip.compress(page(n).encode())
            head = [("Content-Type", "text/html")] + [("Content-Encoding", "gzip")] * (n % 3 == 0)
            answer = StatusAndHeaders("200 OK", head, protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(f"http://a/{n}", "response", io.BytesIO(body), http_headers=answer)
            )
            writer.write_record(
                writer.create_warc_record(f"http://a/{n}", "request", io.BytesIO(b"GET / HTTP/1.1\r\n"))
            )
    with path.open("rb") as file:
        theirs = [(r.rec_headers.get_header("WARC-Target-URI"), r.rec_type, r.raw_stream.read()) for r in
                  ArchiveIterator(file, no_record_parse=True)]  # fmt: skip
    ours = list(warc_records(path, 1 << 20))
    assert [(r.header.get("warc-target-uri"), r.header["warc-type"], r.content) for r in ours
            if isinstance(r, WarcRecord)] == theirs  # fmt: skip
    rows, rejects = read(path)
    assert len(rows) == 20
    assert Counter(r.reason for r in rejects) == {"no_page": 2}
