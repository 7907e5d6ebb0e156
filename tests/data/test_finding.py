"""Which files a source finds, what it says of those that it leaves out, and that they are known by their content."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from data_texts import prose

from llama3.cli import main
from llama3.config.schema import Config
from llama3.data import finding
from llama3.data.curate import CurateOptions
from llama3.data.documents import DocumentBatch, Reject, ShardRef, Source
from llama3.errors import ConfigError, DataError
from llama3.plugins.registry import discover


def build(name: str, **options: Any) -> Source:
    source = discover().build("sources", name, options)
    assert isinstance(source, Source)
    return source


def texts(source: Source) -> list[str]:
    return [text for shard in source.shards() for batch in source.read(shard) for text in batch.texts]


def unread(source: Source) -> list[tuple[str, str]]:
    return [(Path(reject.where).name, reject.reason) for shard in source.shards() for reject in shard.unread]


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def test_endings_are_read_in_any_case_and_packing(tmp_path: Path) -> None:
    packed = {
        "a.jsonl": bytes,
        "B.JSONL": bytes,
        "c.ndjson.gz": gzip.compress,
        "d.jsonl.zstd": zstandard.compress,
        "e.jsonl.bz2": bz2.compress,
        "f.json.xz": lzma.compress,
        "g.Json.GZ": gzip.compress,
    }
    for name, pack in packed.items():
        (tmp_path / name).write_bytes(pack(line(f"text of {name}")))
    (tmp_path / "notes.txt").write_text("no data")
    source = build("jsonl", path=str(tmp_path))
    assert sorted(texts(source)) == sorted(f"text of {name}" for name in packed)
    assert unread(source) == [("notes.txt", "other_ending")]


@pytest.mark.parametrize(("name", "pack"), [("x.jsonl.bz2", bz2.compress), ("x.jsonl.xz", lzma.compress)])
def test_other_packings_that_are_cut_off_fail_as_a_shard(tmp_path: Path, name: str, pack: Callable) -> None:
    (tmp_path / name).write_bytes(pack(b"".join(line(prose(n)) for n in range(50)))[:-20])
    with pytest.raises(DataError, match="L3-SRC-010"):
        texts(build("jsonl", path=str(tmp_path)))


def test_a_json_file_may_be_one_array(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two", "url": "u"}, {"no": "text"}]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows, indent=1))
    (tmp_path / "b.json").write_bytes(line("three") + line("four"))
    source = build("jsonl", path=str(tmp_path))
    assert texts(source) == ["one", "two", "three", "four"]
    with pytest.raises(DataError, match="L3-SRC-015"):
        texts(build("jsonl", path=str(tmp_path / "a.json"), max_document_bytes=20))


def test_links_are_followed_once_and_broken_ones_told(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "x.txt").write_text("in a linked folder")
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "y.txt").write_text("direct")
    os.symlink(tmp_path / "far", folder / "linked")
    os.symlink(folder, folder / "sub" / "up")
    os.symlink(tmp_path / "gone", folder / "z.txt")
    source = build("files", path=str(folder))
    assert texts(source) == ["in a linked folder", "direct"]
    assert unread(source) == [("up", "link_cycle"), ("z.txt", "broken_link")]


def test_hidden_names_are_left_out_of_folders_and_patterns_alike(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in ("v.txt", ".h.txt", ".git/c.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    for path in ("", "*.txt", "**/*"):
        assert texts(build("files", path=str(tmp_path / path))) == ["text of v.txt"], path
    assert unread(build("files", path=str(tmp_path))) == [(".git", "hidden"), (".h.txt", "hidden")]
    assert texts(build("files", path=str(tmp_path / ".h*"))) == ["text of .h.txt"]
    assert texts(build("files", path=str(tmp_path / ".git" / "*.txt"))) == ["text of .git/c.txt"]


def test_what_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("open")
    os.mkfifo(tmp_path / "pipe.txt")
    really = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(finding.os, "scandir", scandir)
    source = build("files", path=str(tmp_path))
    assert texts(source) == ["open"]
    assert unread(source) == [("closed", "unreadable_folder"), ("pipe.txt", "no_file")]
    with pytest.raises(ConfigError, match=r"no_file 1"):
        build("files", path=str(tmp_path), glob="pipe*").shards()


def test_a_file_that_cannot_be_read_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
        (tmp_path / f"{name}.jsonl").write_bytes(line(f"line of {name}"))
    really = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    source = build("files", path=str(tmp_path / "*.txt"))
    (batch,) = source.read(source.shards()[0])
    assert batch.texts == ["text of b"]
    assert [(reject.reason, reject.detail) for reject in batch.rejects] == [("unreadable", "Permission denied")]


@pytest.mark.parametrize("name", ["files", "html", "jsonl", "parquet"])
def test_names_that_are_not_utf8_are_read_and_written_out(tmp_path: Path, curated: Callable, name: str) -> None:
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    os.mkdir(folder)
    contents = {
        "files": prose(1).encode(),
        "html": f"<p>{prose(1)}</p>".encode(),
        "jsonl": line(prose(1)),
        "parquet": b"",
    }
    file = folder + b"/na\xefve." + (b"txt" if name == "files" else name.encode())
    Path(os.fsdecode(file)).write_bytes(contents[name])
    if name == "parquet":
        with open(file, "wb") as opened:
            pq.write_table(pa.table({"text": [prose(1)]}), opened)
    corpus, _ = curated(sources=[{"name": name, "path": os.fsdecode(folder)}])
    (batch,) = corpus.documents(None)
    assert batch.texts == [prose(1)]
    assert r"caf\xe9/na\xefve." in batch.column("url")[0]
    assert batch.column("origin")[0].startswith(r"na\xefve.")


def test_files_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does the work grow with the square of the files, nor does a folder that changes shift the shards."""
    for n in range(600):
        (tmp_path / f"{n:03}.html").write_text(f"<p>page {n} with text</p>")
    listings = Counter[str]()
    really = os.scandir
    monkeypatch.setattr(finding.os, "scandir", lambda path: listings.update([str(path)]) or really(path))
    source = build("html", path=str(tmp_path))
    shards = source.shards()
    assert len(shards) == 3
    found: list[str] = []
    rejects: list[Reject] = []
    for number, shard in enumerate(shards):
        for batch in source.read(shard):
            found += batch.texts
            rejects += batch.rejects
        if number == 0:
            (tmp_path / "000.html").unlink()
            (tmp_path / "0000.html").write_text("<p>new</p>")
            (tmp_path / "599.html").unlink()
            (tmp_path / "598.html").write_text("<p>other text</p>")
    assert found == [f"page {n} with text" for n in range(598)]
    assert [(Path(reject.where).name, reject.reason) for reject in rejects] == [
        ("598.html", "changed"),
        ("599.html", "unreadable"),
    ]
    assert listings[str(tmp_path)] == 2  # once for each of the pattern's parts `**` and `*`


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_a_file_that_changes_while_it_is_read_fails_as_a_shard(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"

    def write(text: str) -> None:
        if name == "jsonl":
            path.write_bytes(line(text))
        else:
            pq.write_table(pa.table({"text": [text]}), path)

    write("first")
    source = build(name, path=str(path))
    (shard,) = source.shards()
    os.utime(path, ns=(1, 1))
    assert [text for batch in source.read(shard) for text in batch.texts] == ["first"]
    write("other")
    with pytest.raises(DataError, match="L3-SRC-014"):
        list(source.read(shard))


def options(path: Path) -> CurateOptions:
    return CurateOptions.of(Config.model_validate({"data": {"sources": [{"name": "files", "path": str(path)}]}}))


def test_files_are_known_by_their_content_and_not_by_their_time(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first text")
    before = options(tmp_path)
    os.utime(tmp_path / "a.txt")
    (tmp_path / "a.txt").chmod(0o600)
    assert options(tmp_path) == before
    stat = (tmp_path / "a.txt").stat()
    (tmp_path / "a.txt").write_text("other text")
    os.utime(tmp_path / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (tmp_path / "a.txt").stat().st_size == stat.st_size
    assert options(tmp_path).found != before.found
    (tmp_path / "a.txt").write_text("first text")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert options(tmp_path).found != before.found


class Theirs:
    """A source of a third party that brings its own layout, and metadata of the wild."""

    def shards(self) -> list[ShardRef]:
        return [ShardRef("theirs", "a\udce9")]

    def read(self, shard: ShardRef) -> Iterator[DocumentBatch]:
        texts, urls = [prose(1), "half \ud800 a pair", prose(2), "a \0 character"], ["\ud83d", "\ud83e", "u", "v"]
        batch = DocumentBatch.of(texts, source="theirs", urls=urls, dates=["\udc80"] * 4)
        plain = [pa.string() if field.name == "text" else field.type for field in batch.records.schema]
        schema = pa.schema([pa.field(f.name, kind) for f, kind in zip(batch.records.schema, plain, strict=True)])
        yield DocumentBatch(batch.records.cast(schema), batch.rejects)


def test_odd_metadata_and_layouts_cost_nothing(curated: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama3.data.curating.build_sources", lambda slots: [Theirs()])
    corpus, out = curated(sources=["theirs"])
    (batch,) = corpus.documents(None)
    assert batch.texts == [prose(1), prose(2)]
    assert batch.column("url") == [r"\ud83d", "u"]
    assert out.metrics["rejects"] == {"read.not_utf8": 1, "read.binary": 1}


def test_what_a_run_writes_is_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again has nothing to do, though its folder lies among the texts."""
    texts_of = tmp_path / "texts"
    texts_of.mkdir()
    for number in range(8):
        (texts_of / f"{number}.txt").write_text(prose(number))
    (tmp_path / "c.yaml").write_text(
        f"data: {{filters: [], sources: [{{name: files, path: {texts_of}, glob: '**/*'}}]}}\n", "utf-8"
    )
    printed = []
    for _ in range(3):
        with pytest.raises(SystemExit) as done:
            main(["data", "curate", str(tmp_path / "c.yaml"), "--out", str(texts_of / "w")])
        assert done.value.code == 0
        printed.append(capsys.readouterr())
    assert len(list((texts_of / "w" / "artifacts").glob("curate-*"))) == 1
    assert "nothing to do" in printed[2].err + printed[2].out
