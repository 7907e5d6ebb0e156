"""Damaged files: what is not sure of them is no document, and every one is told by its name."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llama3.data.corpus import Corpus

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
ROWS = 300
"""Of a member: more than a decompressor takes at once."""


def text(number: int) -> str:
    draw = np.random.default_rng(number)
    return " ".join("".join(word) for word in draw.choice(list("abcdefghij"), (60, 4)))


def members(packing: str) -> list[bytes]:
    rows = [json.dumps({"text": text(n), "url": f"x/{n}"}).encode() + b"\n" for n in range(3 * ROWS)]
    return [COMPRESS[packing](b"".join(rows[n : n + ROWS])) for n in range(0, 3 * ROWS, ROWS)]


def kept(ask: Callable, tmp_path: Path, name: str, data: bytes) -> tuple[int, dict[str, int]]:
    """How many documents, all as they were written, and what was rejected."""
    path = tmp_path / name
    path.write_bytes(data)
    config = tmp_path / "mine.yaml"
    config.write_text(
        f"run: {{dir: {tmp_path / 'out'}, name: mine}}\n"
        f"data: {{sources: [{{name: jsonl, path: {path}, source: web, damaged: keep}}], filters: []}}\n"
    )
    made = ask("curate", config)
    got = {
        (url, text)
        for batch in Corpus(made["path"]).documents(None)
        for url, text in zip(batch.column("url"), batch.texts, strict=True)
    }
    assert got <= {(f"x/{n}", text(n)) for n in range(3 * ROWS)}, "documents that nobody wrote"
    return len(got), made["rejects"]


@pytest.mark.parametrize("packing", list(COMPRESS))
def test_of_wrong_data_no_document_is_kept_that_is_not_sure(ask, tmp_path, packing):
    """Deflate goes on behind a wrong bit, and makes rows that nobody wrote of two."""
    first, second, third = members(packing)
    wrong = bytearray(second)
    wrong[len(wrong) // 2] ^= 4
    found, rejects = kept(ask, tmp_path, f"a.jsonl.{packing}", first + bytes(wrong) + third)
    assert (found, rejects) == (ROWS, {"read.wrong_data": 1})


@pytest.mark.parametrize("packing", ["gz", "xz", "zst"])
def test_of_a_file_that_is_cut_off_all_before_the_cut_is_kept(ask, tmp_path, packing):
    first, second, _ = members(packing)
    found, rejects = kept(ask, tmp_path, f"a.jsonl.{packing}", first + second[:-40])
    assert found >= ROWS
    assert rejects == {"read.cut_off": 1}
    if packing == "gz":
        assert found > ROWS


def test_a_damaged_part_of_a_corpus_is_told_by_its_name(llama3, ask, tmp_path):
    """Also where the damage is met only when its pages are unpacked, or in what a page holds."""
    source = tmp_path / "a.jsonl"
    source.write_text(
        "".join(json.dumps({"text": text(n) + " \u00e9" * 50, "url": f"x/{n}"}) + "\n" for n in range(60))
    )
    made = Path(ask("curate", source, "--out", tmp_path / "corpus", "--set", "data.filters=[]")["path"])
    (part,) = (made / "documents").glob("*.parquet")
    whole = part.read_bytes()
    draw = np.random.default_rng(0)
    told = []
    for place, bit in zip(draw.integers(0, len(whole), 80).tolist(), draw.integers(0, 8, 80).tolist(), strict=True):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << bit
        part.write_bytes(wrong)
        code, _, said = llama3("data", "sample", tmp_path / "corpus")
        if code:
            told.append(said)
            assert (code, part.name in said, "L3-DAT-110" in said) == (1, True, True), (place, bit, said)
    assert len(told) > 20
    assert sum("Corrupt" in said or "corrupt" in said or "decompress" in said for said in told) > 5


def test_a_page_whose_checksum_is_wrong_is_damage(llama3, tmp_path):
    path = tmp_path / "a.parquet"
    rows = {"text": [f"{text(n)} MARK{n}." for n in range(20)]}
    pq.write_table(pa.table(rows), path, compression="none", write_page_checksum=True, use_dictionary=False)
    wrong = bytearray(path.read_bytes())
    wrong[wrong.index(b"MARK7.")] ^= 2  # another letter, and text as before
    path.write_bytes(wrong)
    code, _, told = llama3("data", "curate", path, "--out", tmp_path / "out", "--set", "data.filters=[]")
    assert (code, "a.parquet" in told, "CRC checksum verification failed" in told) == (1, True, True), told


EMPTY = ["", " \n\t ", "\u200b", "\u2060\ufeff \u00ad", "\u3000\u3164", "\u2800\u2800"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "html", "txt", "wet"])
def test_a_text_that_nobody_can_see_is_none(ask, tmp_path, kind):
    texts = [*EMPTY, *map(text, range(6))]
    place = tmp_path / "input"
    place.mkdir()
    if kind == "jsonl":
        (place / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    elif kind == "csv":
        with (place / "a.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "url"), *((one, f"u{n}") for n, one in enumerate(texts))])
    elif kind == "parquet":
        pq.write_table(pa.table({"text": texts}), place / "a.parquet")
    elif kind == "wet":
        (place / "a.wet").write_bytes(b"".join(map(wet_record, texts)))
    else:
        for n, one in enumerate(texts):
            (place / f"{n}.{kind}").write_text(f"<p>{one}</p>" if kind == "html" else one)
    made = ask("curate", place, "--out", tmp_path / "out", "--set", "data.filters=[]")
    assert len(Corpus(made["path"])) == 6
    assert made["rejects"] == {"read.no_text": len(EMPTY)}


def wet_record(content: str) -> bytes:
    data = content.encode()
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data + b"\r\n\r\n"


def test_a_line_break_in_the_name_of_a_file_splits_no_warning(llama3, tmp_path):
    place = tmp_path / "input"
    place.mkdir()
    (place / "two\nlines.txt").write_bytes(b"\xff\xfe\xff")
    for n in range(4):
        (place / f"{n}.txt").write_text(text(n))
    code, _, told = llama3("data", "curate", place, "--out", tmp_path / "out", "--set", "data.filters=[]")
    assert code == 0, told
    assert "two\\nlines.txt" in told.replace("\n", "")
    assert not any(line.startswith("lines.txt") for line in told.splitlines())


def test_a_wrong_key_of_a_benchmark_is_told_once(llama3, tmp_path):
    (tmp_path / "a.txt").write_text(text(0))
    (tmp_path / "sums.jsonl").write_text('{"question": "what is this"}\n' * 50 + '{"query": 5}\n')
    code, _, told = llama3(
        "data", "curate", tmp_path / "a.txt", "--out", tmp_path / "out", "--set",
        f"data.decontaminate.benchmarks={{sums: {{path: {tmp_path / 'sums.jsonl'}, keys: [query]}}}}",
    )  # fmt: skip
    assert code == 2, told
    assert told.count("L3-DAT-121") == 2
    assert "row 1 of benchmark 'sums' has no text. it has no 'query' (and so it is with 49 more rows)" in told
