"""Text of every hostile kind through `llama3 data`: each record stays, or is counted with a reason and a place; nothing
is lost and nothing is there twice."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import started
import zstandard

from llama3.data.corpus import DOCUMENTS, Corpus
from llama3.data.sampling import draw_removed
from llama3.data.tables import part_name
from llama3.tokenizer import Tokenizer

WORDS = ["the", "sea", "of", "ships", "and", "to", "that", "with", "be", "have", "wind", "over", "water", "sing"]
RTL = "كان يا ما كان في قديم الزمان سفينة تبحر بلا شراع. " * 8
CJK = "風沒有吹，船還是向前走，水手們在甲板上唱歌。" * 20


def text(number: int, words: int = 120) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, words)) + "."


def lines(*texts: str, **more: object) -> bytes:
    return b"".join(json.dumps({"text": text, **more}).encode() + b"\n" for text in texts)


def page(body: str) -> bytes:
    return f"<html><body><main>{body}</main></body></html>".encode()


def record(content: bytes, url: str, length: int | None = None) -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + content
    size = len(body) if length is None else length
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"


@pytest.fixture
def config(tmp_path) -> Path:
    """Sources of three kinds full of damage, beside texts that are whole."""
    rows, pages, crawl = (tmp_path / name for name in ("rows", "pages", "crawl"))
    for folder in (rows, pages, crawl):
        folder.mkdir()
    packed = lines(*(text(n) for n in range(100, 120)))
    (rows / "cut.jsonl.gz").write_bytes(gzip.compress(packed)[:-9])
    (rows / "cut.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(packed)[:-9])
    flipped = bytearray(gzip.compress(packed))
    flipped[len(flipped) // 2] ^= 0x10
    (rows / "flipped.jsonl.gz").write_bytes(flipped)
    (rows / "odd.jsonl").write_bytes(
        lines(text(1), text(2), id="the same id")
        + lines(RTL, CJK, "ship", "three short words", "")
        + b'{"text": "' + b"\xff\xfe" + text(3).encode() + b'"}\n'
        + lines("nul \0 " + text(4), text(1))
        + b'{"text": "' + text(5).encode()[:40] + b"\n"
        + lines("x" * 300_000)
    )  # fmt: skip
    (pages / "deep.html").write_bytes(b"<div>" * 20_000 + text(6).encode())
    (pages / "line.html").write_bytes(page(f"<p>{text(7, 20_000)}</p>"))
    (pages / "nul.html").write_bytes(page(f"<p>{text(8)}\0</p>"))
    (pages / "none.html").write_bytes(b"")
    (pages / "noise.html").write_bytes(bytes(range(256)) * 40)
    good = [record(page(f"<p>{text(n)}</p>"), f"http://a/{n}") for n in range(20, 26)]
    wrong = record(page(f"<p>{text(26)}</p>"), "http://a/26", length=60)
    (crawl / "a.warc").write_bytes(b"".join([*good[:3], wrong, *good[3:]]))
    sources = [
        {"name": "jsonl", "path": str(rows), "max_document_bytes": 200_000},
        {"name": "html", "path": str(pages)},
        {"name": "warc", "path": str(crawl)},
    ]
    place = tmp_path / "c.yaml"
    run = {"dir": str(tmp_path), "name": "run", "device": "cpu"}
    place.write_text(json.dumps({"run": run, "data": {"sources": sources, "filters": []}}))
    return place


def test_hostile_text_is_counted_and_named_and_nothing_is_twice(ask, config):
    made = ask("curate", config)
    corpus = Corpus(made["path"])
    kept = [text for batch in corpus.documents(None) for text in batch.texts]
    good = [text(n) for n in (1, 2, 6, *range(20, 26))]
    assert [kept.count(text) for text in [*good, RTL, CJK, text(7, 20_000)]] == [1] * (len(good) + 3)
    assert max(Counter(kept).values()) == 1
    assert "ship" in kept
    assert "three short words" in kept
    assert made["rejects"] == {
        "read.binary": 1,
        "read.broken_json": 1,
        "read.no_text": 2,
        "read.not_text": 1,
        "read.not_utf8": 1,
        "read.shard_quarantined": 3,
        "read.too_large": 1,
        "read.wrong_length": 1,
        "exact.exact_duplicate": 1,
    }
    read = sum(cell["documents"] for cell in made["funnel"]["read"].values())
    gone = sum(count for name, count in made["rejects"].items() if not name.startswith("read."))
    assert read == len(kept) + gone
    named = {row["where"] or row["id"] for rows in draw_removed(corpus.path, 10, 1).values() for row in rows}
    assert all(named)
    assert {Path(where).name for where in named} >= {"cut.jsonl.gz#0", "cut.jsonl.zst#0", "flipped.jsonl.gz#0"}
    assert {Path(where).name for where in named} >= {"odd.jsonl:8", "odd.jsonl:11", "odd.jsonl:12", "noise.html"}


def test_a_damaged_file_may_keep_what_stands_before_the_break(ask, config, tmp_path):
    made = ask("curate", config, "--set", "data.sources.0.damaged=keep", "--out", tmp_path / "kept")
    assert made["quarantined_shards"] == 0
    texts = [text for batch in Corpus(made["path"]).documents(None) for text in batch.texts]
    assert len(set(texts) & {text(n) for n in range(100, 120)}) >= 1
    assert max(Counter(texts).values()) == 1


@pytest.mark.parametrize("place", [0.01, 0.3, 0.7, 0.99])
def test_a_flipped_bit_of_a_corpus_is_found_and_the_corpus_made_again(llama3, ask, config, tmp_path, place):
    made = ask("curate", config)
    file = Path(made["path"]) / DOCUMENTS / part_name(0)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[int(len(flipped) * place)] ^= 1
    file.write_bytes(flipped)
    code, _, told = llama3("data", "inspect", tmp_path / "run")
    assert code == 1
    assert DOCUMENTS in told
    again = ask("curate", config)
    assert (Path(again["path"]) / DOCUMENTS / part_name(0)).read_bytes() == whole
    assert any((tmp_path / "run" / "damaged").iterdir()), "the damaged one is kept for whoever wants to look"


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from llama3.cli import main
sys.argv[:2] = ["llama3"]
main()
"""


def full_disk(limit: int, *arguments: object) -> str:
    """What a command tells that cannot write more than `limit` bytes into a file, as the kernel refuses it."""
    command = [sys.executable, "-c", FULL, str(limit), "data", *map(str, arguments)]
    done = started.run(command)
    assert done.returncode == 1, done.stderr
    return " ".join(done.stderr.split())


def test_a_full_disk_is_told_with_its_place_and_costs_nothing(ask, config, tmp_path):
    run, exported = tmp_path / "run", tmp_path / "exported"
    told = full_disk(8192, "curate", config)
    assert f"error: {run}: curate could not be written" in told
    assert "L3-RUN-003" in told
    assert not list(run.rglob("*.parquet"))
    made = ask("curate", config)
    assert made["path"] == ask("curate", config)["path"]
    assert pq.read_metadata(Path(made["path"]) / DOCUMENTS / part_name(0)).num_rows == len(Corpus(made["path"]))
    Tokenizer.train([text(n) for n in range(12)], 290, 16).save(tmp_path / "tokenizer")
    ask("shard", run, "--tokenizer", tmp_path / "tokenizer", "--out", run)
    told = full_disk(4096, "shard", run, "--to", "megatron", "--out", exported)
    assert f"error: {exported}: it could not be written" in told
    assert not exported.exists()
    assert not list(tmp_path.glob("exported*"))
    ask("shard", run, "--to", "megatron", "--out", exported)
