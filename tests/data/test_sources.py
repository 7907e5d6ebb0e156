"""The built-in sources: what they read, and what they do with bad input."""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import lzma
import sysconfig
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_texts import prose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama3.data.documents import SCHEMA, DocumentBatch, Reject, Source
from llama3.data.reading import bounded_lines
from llama3.errors import ConfigError, DataError
from llama3.plugins.registry import discover
from llama3_plugins.sources.stdlib import docstrings_of


def build(name: str, **options: Any) -> Source:
    source = discover().build("sources", name, options)
    assert isinstance(source, Source)
    return source


def read(source: Source) -> tuple[list[tuple[str, str]], list[Reject]]:
    """All (url, text) and all rejects."""
    batches: list[DocumentBatch] = [batch for shard in source.shards() for batch in source.read(shard)]
    rows = [row for b in batches for row in zip(b.column("url"), b.texts, strict=True)]
    return rows, [reject for b in batches for reject in b.rejects]


# -- files -----------------------------------------------------------------------------------------


def test_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffÄ text\r\n".encode())
    (tmp_path / "b" / "m.py").write_text("x = 1\n")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "d.bin").write_bytes(b"ab\0cd")
    (tmp_path / "e.txt").write_bytes(b"x" * 5000)
    source = build("files", path=str(tmp_path), language="en", max_document_bytes=4096)
    rows, rejects = read(source)
    assert rows == [(str(tmp_path / "a.txt"), "Ä text\r\n"), (str(tmp_path / "b" / "m.py"), "x = 1\n")]
    (batch,) = source.read(source.shards()[0])
    assert batch.column("kind") == ["prose", "code"]
    assert batch.column("language") == ["en", "python"]
    assert [(Path(r.where).name, r.reason) for r in rejects] == [
        ("c.txt", "not_utf8"),
        ("d.bin", "binary"),
        ("e.txt", "too_large"),
    ]
    assert rejects[2].score == 5000


def test_files_by_pattern_and_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    assert [text for _, text in read(build("files", path=str(tmp_path / "*.txt")))[0]] == ["a.txt", "b.txt"]
    assert [text for _, text in read(build("files", path=str(tmp_path), glob="*.md"))[0]] == ["c.md"]
    assert [text for _, text in read(build("files", path=str(tmp_path / "b.txt")))[0]] == ["b.txt"]
    with pytest.raises(ConfigError, match=r"\*\.rst"):
        build("files", path=str(tmp_path), glob="*.rst").shards()
    with pytest.raises(ConfigError, match="pth"):
        build("files", pth=str(tmp_path))


@pytest.mark.parametrize(
    ("path", "origins"),
    [("", ["a.txt", "b/c.txt"]), ("a.txt", ["a.txt"]), ("b/*.txt", ["c.txt"]), ("*/c.txt", ["b/c.txt"])],
)
def test_an_origin_is_a_name_below_what_was_given(tmp_path: Path, path: str, origins: list[str]) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b" / "c.txt").write_text("two")
    source = build("files", path=str(tmp_path / path))
    assert [
        origin for shard in source.shards() for batch in source.read(shard) for origin in batch.column("origin")
    ] == origins


@pytest.mark.parametrize("name", ["jsonl", "parquet", "html"])
def test_origins_of_other_kinds_of_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "d.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "b" / "d.parquet")
    (tmp_path / "b" / "d.html").write_text(f"<main><p>{prose(1, 60)}</p></main>")
    source = build(name, path=str(tmp_path))
    rows = {
        "jsonl": ["b/d.jsonl:1", "b/d.jsonl:3"],
        "parquet": ["b/d.parquet:0", "b/d.parquet:1"],
        "html": ["b/d.html"],
    }
    (batch,) = source.read(source.shards()[0])
    assert batch.column("origin") == rows[name]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.md.zst", "a.html", "a.html.gz", "a.HTM.XZ"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_files_and_pages_are_read_in_any_packing_and_as_what_they_are(tmp_path: Path, name: str, encoding: str) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}
    text = f"\u00c4 {prose(1)} \u0a00"
    page = f"<html><body><nav><a href='/'>Home</a></nav><main><p>{text}</p></main></body></html>"
    data = (page if "htm" in name.lower() else text).encode(encoding)
    data = codecs.BOM_UTF16_BE + data if encoding == "utf-16-be" else data
    (tmp_path / name).write_bytes(pack.get(Path(name).suffix.lower(), bytes)(data))
    rows, rejects = read(build("html" if "htm" in name.lower() else "files", path=str(tmp_path)))
    assert [found.strip() for _, found in rows] == [text]
    assert rejects == []


def test_packed_files_that_are_broken_or_large_cost_themselves_alone(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(prose(1).encode())[:-9])
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"x" * 100_000))
    (tmp_path / "c.txt").write_bytes("half a ".encode("utf-16") + b"p")
    (tmp_path / "d.txt").write_bytes("a\0b".encode("utf-16"))
    (tmp_path / "m.py.gz").write_bytes(gzip.compress(b"x = 1"))
    source = build("files", path=str(tmp_path), max_document_bytes=4096)
    (batch,) = (batch for shard in source.shards() for batch in source.read(shard))
    assert (batch.texts, batch.column("language")) == (["x = 1"], ["python"])
    found = {Path(reject.where).name: reject.reason for reject in batch.rejects}
    assert found == {"a.txt.gz": "cut_off", "b.txt.gz": "too_large", "c.txt": "not_utf8", "d.txt": "binary"}


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
def test_other_columns_of_a_row_stay_behind(tmp_path: Path, name: str) -> None:
    row = {"id": "mine", "label": "odd", "text": prose(1), "url": "http://a/1", "date": "2024-02-03"}
    table = io.StringIO()
    csv.writer(table).writerows([row, row.values()])
    (tmp_path / "a.csv").write_text(table.getvalue())
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    pq.write_table(pa.table({key: [value] for key, value in row.items()}), tmp_path / "a.parquet")
    source = build(name, path=str(tmp_path))
    (batch,) = source.read(source.shards()[0])
    (found,) = batch.records.to_pylist()
    assert found.keys() == set(SCHEMA.names)
    assert {key: found[key] for key in ("text", "url", "date")} == {key: row[key] for key in ("text", "url", "date")}
    assert not {"mine", "odd"} & set(found.values())


def test_many_files_make_several_shards(tmp_path: Path) -> None:
    for n in range(1030):
        (tmp_path / f"{n:04}.txt").write_text(f"document {n}")
    source = build("files", path=str(tmp_path))
    assert [shard.part for shard in source.shards()] == [0, 1]
    assert [text for _, text in read(source)[0]] == [f"document {n}" for n in range(1030)]


# -- comma-separated values ------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_every_row_of_a_table_is_a_document(tmp_path: Path, name: str, encoding: str) -> None:
    texts = [
        'said "no", twice\r\nand left\t',
        "zwei \u00c4pfel",
        "",
        prose(1) * 1000,
    ]  # the last: above csv's own limit
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter="\t" if ".tsv" in name else ",")
    writer.writerow(["url", "label", "text", "date"])
    writer.writerows(["https://a.example" if n else "", "x", text, "2023-01-02"] for n, text in enumerate(texts))
    data = table.getvalue().encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    source = build("csv", path=str(tmp_path))
    rows, rejects = read(source)
    assert [text for _, text in rows] == [text for text in texts if text]
    assert [(r.where, r.reason) for r in rejects] == [("https://a.example", "no_text")]
    assert [url for url, _ in rows] == [f"{path}:2", *["https://a.example"] * 2]
    (batch,) = source.read(source.shards()[0])
    assert batch.column("origin") == [f"{name}:{line}" for line in (2, 4, 6)]
    assert batch.column("date") == ["2023-01-02"] * 3


def test_bad_rows_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(
        b'id;body\n1;good\n2\n\n3;a;b\n4;"quoted" and not\n5;caf\xe9\n6;n\0ul\n7;' + b"x" * 2000 + b'\n8;5" disk\n'
        b'9;"never\nclosed\n'
    )
    rows, rejects = read(build("csv", path=str(path), text="body", separator=";", max_document_bytes=1000))
    assert rows == [(f"{path}:2", "good"), (f"{path}:10", '5" disk')]
    assert [(r.where.rsplit(":", 1)[1], r.reason) for r in rejects] == [
        ("3", "broken_csv"),
        ("5", "broken_csv"),
        ("6", "broken_csv"),
        ("7", "not_utf8"),
        ("8", "binary"),
        ("9", "too_large"),
        ("11", "broken_csv"),
    ]
    assert rejects[-1].detail == "unexpected end of data; 2 lines, to line 12"


def test_the_rest_of_a_broken_row_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,url\n"A \\"b\\" "c\nhe said",http://q/1\nwhole,http://q/2\n')
    rows, rejects = read(build("csv", path=str(path)))
    assert rows == [("http://q/2", "whole")]
    assert [(r.where.rsplit(":", 1)[1], r.detail) for r in rejects][-1] == ("3", "may be the rest of the row before it")


def test_a_row_that_breaks_goes_whole(tmp_path: Path) -> None:
    """Lines in the middle of it would pass for rows: they have as many fields."""
    path = tmp_path / "a.csv"
    path.write_text(
        'text,url\n"He said "no" to\nthe first, and the\nsecond "ship" of\nthe third, and left",http://q/1\n'
        'whole,http://q/2\n"of 5" width",http://q/3\nwhole again,http://q/4\n"two, ""twice""",http://q/5\n'
        '"so" it ends,http://q/6\nlast,http://q/7\n'
    )
    rows, rejects = read(build("csv", path=str(path)))
    assert [url.rpartition("/")[2] for url, _ in rows] == ["2", "4", "5", "7"]
    assert [(r.where.rpartition(":")[2], r.score) for r in rejects] == [("2", 4), ("7", 1), ("10", 1)]
    assert rejects[0].detail.endswith("4 lines, to line 5")


def test_no_line_of_a_field_is_a_document_behind_a_quote_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    good = "".join(f'"whole, {n}",v{n}\n' for n in range(3))
    for broken in (
        '"unclosed,u2\n"first line\nmiddle line\nlast line of the third row",u3\n',
        'first line, with a comma\nmiddle line\nlast line",u3\n',
        '"some te",xt\nmiddle, line\nlast line",u3\n',
    ):
        path.write_text("text,url\n" + '"before, it",u1\n' + broken + good)
        rows, rejects = read(build("csv", path=str(path)))
        assert [url for url, _ in rows if url != "u1"] == ["v0", "v1", "v2"]
        assert {reject.reason for reject in rejects} == {"broken_csv"}


def test_a_row_without_quotes_that_breaks_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"text {n},u{n}" for n in range(300)]
    path.write_text("\n".join(["text,url", *rows[:150], "short", 'a 5",u', *rows[150:]]) + "\n")
    found, rejects = read(build("csv", path=str(path)))
    assert [url for url, _ in found] == [f"u{n}" for n in range(300) if not 87 <= n < 150]
    assert len(rejects) == 65


SOME_TEXT = st.lists(
    st.sampled_from(["a", "first line", "b, c", '"', 'say "x"', ",", "\n", "two\nlines", "\nx, y"]),
    min_size=1,
    max_size=8,
).map("".join)


@given(
    texts=st.lists(SOME_TEXT, min_size=2, max_size=8),
    names=st.permutations(["text", "url", "date"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    place=st.integers(0, 10**6),
    is_lost=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_damaged_quote_puts_no_text_under_another_address(
    tmp_path: Path, texts: list[str], names: list[str], quoting: int, place: int, is_lost: bool
) -> None:
    """A row of one line may keep the quote as a part of its own text: nothing tells it from `a 5" disk`."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names, quoting=quoting, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"text": text, "url": f"u{n}", "date": f"d{n}"} for n, text in enumerate(texts))
    data = table.getvalue()
    begin = data.index("\n") + 1
    quotes = [n for n in range(begin, len(data)) if data[n] == '"'] if is_lost else []
    at = quotes[place % len(quotes)] if quotes else begin + place % (len(data) - begin)
    path = tmp_path / "a.csv"
    path.write_text(data[:at] + (data[at + 1 :] if quotes else '"' + data[at:]), newline="")
    for url, text in read(build("csv", path=str(path)))[0]:
        written = texts[int(url.replace('"', "")[1:])]
        is_own_line = "\n" not in text and text.replace('"', "") in written.replace('"', "")
        assert text == written or is_own_line, (url, text)


def test_tables_quoted_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,url\n'it\\'s, and\n\"more\"',u1\nin the ''end'',u2\n")
    rows, rejects = read(build("csv", path=str(path), quote="'", escape="\\"))
    assert (rows, [r.detail for r in rejects]) == ([("u1", 'it\'s, and\n"more"'), ("u2", "in the ''end''")], [])
    path.write_text('text,url\n"the 5" disk\\, "old,u1\n')
    assert read(build("csv", path=str(path), quote=None, escape="\\")) == ([("u1", '"the 5" disk, "old')], [])


@pytest.mark.parametrize(
    "options", [{"quote": ","}, {"separator": ";", "escape": ";"}, {"escape": "\n"}, {"quote": ""}]
)
def test_signs_of_a_table_that_are_the_same(tmp_path: Path, options: dict[str, str]) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(ConfigError, match=r"differ from each other|at least 1 character"):
        build("csv", path=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("header", "options", "said"),
    [
        ("text,url,text", {}, "2 columns are called 'text'"),
        ("text,link", {"url": "lnk"}, "no column 'lnk'. did you mean 'link'?"),
        ("Text;url", {}, "it may be separated by ';' (separator)"),
        (" ", {}, "there is no header"),
    ],
)
def test_headers_that_leave_a_doubt(tmp_path: Path, header: str, options: dict[str, str], said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\na,b,c\n")
    with pytest.raises(DataError) as caught:
        read(build("csv", path=str(path), **options))
    assert said in str(caught.value)


def test_tables_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,txt\n1,a\n")
    with pytest.raises(DataError, match=r"a\.csv: no column 'text'\. did you mean 'txt'\?.*L3-SRC-011"):
        read(build("csv", path=str(path)))
    monkeypatch.setattr("llama3_plugins.sources.csv_rows.LONGEST", 1000)
    path.write_text('text\nfirst\n"' + "x\n" * 1000)
    with pytest.raises(DataError, match=r"a\.csv: a row of more than 1000 characters.*L3-SRC-032"):
        read(build("csv", path=str(path), max_document_bytes=100))
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(b"text\nwhole\n") + gzip.compress(b"text\n" * 10)[:-4])
    with pytest.raises(DataError, match=r"a\.csv\.gz.*L3-SRC-033"):
        read(build("csv", path=str(packed)))
    rows, rejects = read(build("csv", path=str(packed), damaged="keep"))
    assert (rows[0][1], [reject.reason for reject in rejects]) == ("whole", ["cut_off"])


# -- JSON lines ------------------------------------------------------------------------------------


GOOD = [{"text": prose(1), "url": "https://a.example/1", "date": "2023-01-02"}, {"text": "zwei Äpfel\n"}]


def lines_of(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_jsonl_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    """Also of several gzip members and zstd frames, as files that were put together are."""
    compress = {"jsonl": bytes, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[suffix.split(".")[-1]]
    path = tmp_path / f"part{suffix}"
    path.write_bytes(compress(lines_of(GOOD[0])) + compress(lines_of(GOOD[1])))
    source = build("jsonl", path=str(tmp_path))
    rows, rejects = read(source)
    assert rows == [("https://a.example/1", GOOD[0]["text"]), (f"{path}:2", GOOD[1]["text"])]
    (batch,) = source.read(source.shards()[0])
    assert batch.column("date") == ["2023-01-02", ""]
    assert rejects == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_json_in_other_encodings_is_read_as_what_it_is(tmp_path: Path, encoding: str, name: str) -> None:
    """Whole, and with the same names and rejects: not the half of its lines that stand at even bytes."""
    rows = [{"text": f"line {n} \u010a \U0001f600 \u0a00"} for n in range(300)]  # their bytes hold ends of lines
    listed = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = (
        f"[{', '.join(listed)}]"
        if name == "a.json"
        else "\n".join([*listed, "{", '{"text": "\\ud83d"}', '{"text": "z"}'])
    )
    data = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"") + text.encode(
        encoding
    )
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    found, rejects = read(build("jsonl", path=str(tmp_path / name)))
    expected = [(f"{tmp_path / name}:{n}", row["text"]) for n, row in enumerate(rows, 1)]
    assert found == (expected if name == "a.json" else [*expected, (f"{tmp_path / name}:303", "z")])
    told = [(reject.where, reject.reason) for reject in rejects]
    bad = [] if name == "a.json" else [(301, "broken_json"), (302, "not_utf8")]
    assert told == [(f"{tmp_path / name}:{line}", reason) for line, reason in bad]


def test_json_in_utf16_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16") + b"x")
    with pytest.raises(DataError, match=r"a\.jsonl.*utf-16.*L3-SRC-010"):
        read(build("jsonl", path=str(path)))
    rows, rejects = read(build("jsonl", path=str(path), damaged="keep"))
    assert ([text for _, text in rows], [reject.reason for reject in rejects]) == (["a", "b"], ["cut_off"])


def test_bad_jsonl_records_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        lines_of(GOOD[1])
        + b'{"text": "cut off\n'
        + b"\n"
        + lines_of({"content": "x"}, ["text"], {"text": 5}, {"text": "\ud800"})
        + b'{"text": "\xff"}\n'
        + b'{"text": "'
        + b"x" * 2000
        + b'"}\n'
        + b"[" * 900
        + b"\n"
        + b'{"text": "last, without an end of line"}'
    )
    rows, rejects = read(build("jsonl", path=str(path), max_document_bytes=1000))
    assert [url for url, _ in rows] == [f"{path}:1", f"{path}:11"]
    assert [(r.where.rsplit(":", 1)[1], r.reason) for r in rejects] == [
        ("2", "broken_json"),
        ("4", "no_text"),
        ("5", "no_text"),
        ("6", "no_text"),
        ("7", "not_utf8"),
        ("8", "not_utf8"),
        ("9", "too_large"),
        ("10", "broken_json"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_cut_off_archive_fails_as_a_shard(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix.endswith("gz") else zstandard.ZstdCompressor().compress
    data = compress(lines_of(*({"text": prose(n)} for n in range(300))))
    for name, broken in (("cut", data[: len(data) // 2]), ("noise", b"noise" * 40)):
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(broken)
        source = build("jsonl", path=str(path))
        with pytest.raises(DataError, match=f"{name}{suffix}.*L3-SRC-010"):
            read(source)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_what_stands_before_a_break_is_kept_where_it_may_be(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix.endswith("gz") else zstandard.ZstdCompressor().compress
    members = [compress(lines_of({"text": prose(n)})) for n in range(3)]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(b"".join(members)[:-50])
    rows, rejects = read(build("jsonl", path=str(path), damaged="keep"))
    assert [text for _, text in rows] == [prose(0), prose(1)]
    assert [(r.where, r.reason) for r in rejects] == [(str(path), "cut_off")]


def test_a_long_line_is_skipped_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.write(b"first\n")
        for _ in range(100):
            file.write(b"y" * (1 << 20))
        file.write(b"\nlast")
    with path.open("rb") as file:
        assert list(bounded_lines(file, 1000)) == [(1, b"first"), (2, None), (3, b"last")]
    with path.open("rb") as file:
        lines = list(bounded_lines(file, 128 << 20))
    assert [len(line or b"") for _, line in lines] == [5, 100 << 20, 4]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet", "a.wet"])
def test_a_nul_character_is_no_text_in_any_kind_of_file(tmp_path: Path, name: str) -> None:
    """However a file writes it: it does not pass for text where JSON spells it out."""
    path = tmp_path / name
    kind = {"txt": "files", "wet": "warc", "json": "jsonl"}.get(path.suffix[1:], path.suffix[1:])
    row = {"text": "a\0b"}
    if name == "a.parquet":
        pq.write_table(pa.table({"text": [row["text"]]}), path)
    else:
        content = {
            "a.jsonl": json.dumps(row),
            "a.json": json.dumps([row]),
            "a.csv": "text\na\0b\n",
            "a.wet": "WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\n"
            "a\0b\r\n\r\n",
        }
        path.write_text(content.get(name, row["text"]))
    rows, rejects = read(build(kind, path=str(path)))
    assert rows == []
    assert [(reject.where.partition(str(path))[1], reject.reason) for reject in rejects] == [(str(path), "binary")]
    assert "NUL" in rejects[0].detail


def test_a_nul_character_of_a_page_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<p>har\0bour {prose(1)}</p>")
    assert read(build("html", path=str(tmp_path))) == ([(str(tmp_path / "a.html"), f"harbour {prose(1)}")], [])


# -- Parquet ---------------------------------------------------------------------------------------


def test_parquet(tmp_path: Path) -> None:
    broken = pa.array([b"one", b"\xff\xfe", None, b"a\0b"], pa.binary())
    pq.write_table(pa.table({"body": broken, "url": ["u0", "u1", None, "u3"]}), tmp_path / "a.parquet")
    rows, rejects = read(build("parquet", path=str(tmp_path), text="body"))
    assert rows == [("u0", "one")]
    where = f"{tmp_path / 'a.parquet'}"
    assert [(r.where, r.reason) for r in rejects] == [
        (f"{where}:1", "not_utf8"),
        (f"{where}:2", "no_text"),
        (f"{where}:3", "binary"),
    ]
    with pytest.raises(DataError, match=r"no column 'bdy'. did you mean 'body'"):
        read(build("parquet", path=str(tmp_path), text="bdy"))
    pq.write_table(pa.table({"body": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="holds int64"):
        read(build("parquet", path=str(tmp_path), text="body"))
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        read(build("parquet", path=str(tmp_path), text="body"))


def test_a_damaged_row_group_costs_no_other_where_it_may_not(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [prose(n) for n in range(30)]}), path, row_group_size=10)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="L3-SRC-012"):
        read(build("parquet", path=str(path)))
    rows, rejects = read(build("parquet", path=str(path), damaged="keep"))
    assert rows == [(f"{path}:{n}", prose(n)) for n in range(30) if n // 10 != 1]
    assert [(r.reason, r.score, "rows 10 to 19" in r.detail) for r in rejects] == [("cut_off", 10, True)]


# -- the standard library --------------------------------------------------------------------------


def test_stdlib_is_code_and_prose() -> None:
    source = build("stdlib", max_bytes=800_000)
    rows, rejects = read(source)
    assert rejects == []
    code = {url: text for url, text in rows if url.endswith(".py")}
    size = sum(len(text.encode()) for text in code.values())
    assert 600_000 < size <= 800_000
    folder = Path(sysconfig.get_paths()["stdlib"])
    for url, text in code.items():
        assert text == (folder / url.removeprefix("stdlib:")).read_bytes().decode().removeprefix("\ufeff")
        assert "/test" not in url
        assert "site-packages" not in url
    topics = {url: text for url, text in rows if url.startswith("pydoc:")}
    assert "anonymous functions" in topics["pydoc:lambda"]
    assert len(topics) > 50
    assert read(source)[0] == rows


def test_docstrings_in_order_under_their_names() -> None:
    code = '''
"""Module text.

    indented
"""
def outer(x):
    """What outer does."""
    def inner():
        "Inner."
class Thing:
    value = 1
    "not a docstring"
    async def method(self):
        r"""Method
        text."""
'''
    assert docstrings_of(code) == (
        "Module text.\n\nindented\n\nouter\nWhat outer does.\n\nouter.inner\nInner.\n\nThing.method\nMethod\ntext."
    )
    assert docstrings_of("x = 1") == ""
    assert docstrings_of("print 'Python 2'") == ""
    assert ast.get_docstring(ast.parse(code)) in docstrings_of(code)
