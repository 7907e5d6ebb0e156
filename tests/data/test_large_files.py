"""Large files are read in pieces, by whoever has time: what comes of it is what the whole file gives."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_texts import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3 import _core
from llama3.artifacts.files import canonical_json
from llama3.cli.app import main
from llama3.data import remembered as facts
from llama3.data.corpus import Corpus
from llama3.data.documents import ShardRef, Source
from llama3.data.reading import listed_all
from llama3.data.remembered import remembered, seen, shared_facts
from llama3.plugins.registry import discover
from llama3_plugins.sources import jsonl, line_spans, parquet


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=30), st.integers(1, 40), st.integers(1, 12))
def test_pieces_end_with_lines_and_count_them(lines: list[bytes], size: int, read: int) -> None:
    data = b"\n".join(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_spans, "READ", read)
        spans = line_spans.line_spans(io.BytesIO(data), size)
        pieces = [line_spans.span_of(io.BytesIO(data), span).read() for span in spans]
    assert b"".join(pieces) == data
    for number, (piece, (begin, end, before)) in enumerate(zip(pieces, spans, strict=True)):
        assert piece == data[begin:end] != b""
        assert before == data[:begin].count(b"\n")
        if number + 1 < len(spans):
            assert piece.endswith(b"\n")
            assert len(piece) >= size > piece.rfind(b"\n", 0, -1) + 1


def found_in(source: Source, shards: list[ShardRef]) -> tuple[list[Any], list[Any]]:
    rows, rejects = [], []
    for shard in shards:
        for batch in source.read(shard):
            rows += batch.records.to_pylist()
            rejects += [(reject.where, reject.reason, reject.detail) for reject in batch.rejects]
    return rows, rejects


def written_jsonl(path: Path) -> Path:
    lines = [json.dumps({"text": prose(n, 90 + n % 9)}).encode() for n in range(200)]
    lines[3], lines[50], lines[51], lines[120] = b"", b"{torn", b'{"text": "\xff"}', lines[120] + b"\r"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    return path


def written_parquet(path: Path) -> Path:
    texts = [prose(n, 90 + n % 9).encode() for n in range(200)]
    texts[50], texts[120] = b"\0", b"\xff"
    pq.write_table(pa.table({"text": pa.array(texts, pa.binary())}), path, row_group_size=17)
    return path


@pytest.mark.parametrize(
    ("kind", "write", "module"), [("jsonl", written_jsonl, jsonl), ("parquet", written_parquet, parquet)]
)
def test_a_file_in_pieces_gives_what_it_gives_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, write: Callable[[Path], Path], module: Any
) -> None:
    """Documents, ids, names, origins and rejects, in order; any piece alone, and with the same stamps each time."""
    source: Source = discover().build("sources", kind, {"path": str(write(tmp_path / f"a.{kind}"))})
    (whole,) = source.shards()
    monkeypatch.setattr(module, "PIECE", 9000)
    pieces = source.shards()
    assert len(pieces) > 3
    assert [piece.part for piece in pieces] == list(range(len(pieces)))
    assert len({piece.stamp for piece in pieces} | {whole.stamp}) == len(pieces) + 1
    assert source.shards() == pieces
    assert found_in(source, pieces) == found_in(source, [whole])
    alone = [found_in(source, [piece])[0] for piece in reversed(pieces)]
    assert [row for rows in reversed(alone) for row in rows] == found_in(source, [whole])[0]
    if kind == "jsonl":
        assert sum(piece.bytes for piece in pieces) == whole.bytes


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "utf16.jsonl"])
def test_what_cannot_be_cut_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = [json.dumps({"text": prose(n, 20)}) for n in range(50)]
    text = f"[{', '.join(rows)}]" if name == "a.json" else "\n".join(rows)
    data = text.encode("utf-16" if name == "utf16.jsonl" else "utf-8")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    monkeypatch.setattr(jsonl, "PIECE", 300)
    source: Source = discover().build("sources", "jsonl", {"path": str(tmp_path / name)})
    assert [shard.span for shard in source.shards()] == [()]
    assert len(found_in(source, source.shards())[0]) == 50


def curate(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as done:
        main(["data", "curate", *map(str, arguments), "--set", "data.held_out=0.2"])
    assert not done.value.code


def content(run: Path) -> dict[str, bytes]:
    place = run / "artifacts" / "curate"
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in ("manifest.json", "COMMIT")}


def documents(run: Path) -> list[dict[str, Any]]:
    batches = Corpus(run / "artifacts" / "curate").documents(None)
    return [row for batch in batches for row in batch.records.drop_columns(["shard", "position"]).to_pylist()]


def test_tasks_share_one_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is that of the whole file, but for the columns that name the piece; and tasks make it to the byte."""
    (tmp_path / "in").mkdir()
    file = written_jsonl(tmp_path / "in" / "a.jsonl")
    curate(file.parent, "--out", tmp_path / "whole")
    monkeypatch.setattr(jsonl, "PIECE", 20_000)
    monkeypatch.setattr(facts, "YOUNG_SECONDS", -1.0)
    curate(file.parent, "--out", tmp_path / "alone")
    for rank in (1, 0, 1, 0, 1):
        monkeypatch.setattr(facts, "_own", {})  # as another process
        curate(file.parent, "--out", tmp_path / "shared", "--rank", str(rank), "--world", "2")
    assert (tmp_path / "shared.parts" / "facts").is_dir()
    curate(file.parent, "--out", tmp_path / "shared")
    assert content(tmp_path / "shared") == content(tmp_path / "alone")
    assert documents(tmp_path / "alone") == documents(tmp_path / "whole")
    assert len(documents(tmp_path / "alone")) > 100
    curate(file.parent, "--out", tmp_path / "shared", "--rank", "0", "--world", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "in", "shared", "whole"], "nothing is left"


# -- what is worked out once -----------------------------------------------------------------------


def test_hashes_are_worked_out_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process has put there is taken; not for a file that changed since, and not where it is damaged."""
    monkeypatch.setattr(facts, "YOUNG_SECONDS", -1.0)
    monkeypatch.setattr(facts, "_own", {})
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    true = [_core.blake3_file(str(path)) for path in paths]
    with shared_facts(tmp_path / "facts"):
        assert [file.blake3 for file in listed_all(paths)] == true
    (record,) = (tmp_path / "facts").glob("*.json")
    other = ["ab" * 32, "cd" * 32]

    def again() -> list[str]:
        facts._own.clear()
        with shared_facts(tmp_path / "facts"):
            return [file.blake3 for file in listed_all(paths)]

    record.write_text(json.dumps({"value": other, "blake3": _core.blake3_bytes(canonical_json(other))}))
    assert again() == other, "it is what the other process has told"
    record.write_text(json.dumps({"value": other, "blake3": "00" * 32}))
    assert again() == true, "the record is damaged"
    record.write_text(json.dumps({"value": other, "blake3": _core.blake3_bytes(canonical_json(other))}))
    paths[0].write_text("c")
    assert again() == [_core.blake3_bytes(b"c"), true[1]], "the file is another"
    (tmp_path / "missing").symlink_to("nowhere")
    assert [file.blake3 for file in listed_all([*paths, tmp_path / "missing"])] == [*again(), ""]


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    with shared_facts(tmp_path / "facts"):
        made = [remembered("x", [[(str(path), seen(path))]], lambda _: [object]) for _ in range(2)]
    assert made == [[[object]]] * 2
    assert not (tmp_path / "facts").exists()
