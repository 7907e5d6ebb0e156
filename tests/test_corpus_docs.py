"""docs/corpus.md: its configs run and give what the page tells, and its program prints what stands there."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from llama3.artifacts import StageOutput
from llama3.config import load
from llama3.data.corpus import Corpus
from llama3.data.curate import CurateOptions, curate
from llama3.data.ledger import told_benchmarks
from llama3.errors import DataError

TEXT = (Path(__file__).parents[1] / "docs" / "corpus.md").read_text(encoding="utf-8")
ARCHIVES, BOUNDS, BENCHMARKS, _, ALARM = (
    yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.M)
)
PROGRAM, *_ = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.M)
FOUND, PRINTED = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.M)
TOLD = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", TEXT, re.M))))
SENTENCE = "The {0} of the house of {1} lies behind the {2} of the {0}, where nobody has seen {1} for many years."


def sentences(seed: int, count: int = 6) -> str:
    names = ["garden", "river", "wall", "tower", "bridge", "field", "gate", "orchard", "mill", "cellar", "roof"]
    pick = lambda n: names[(seed * 7 + n * 3 + seed // 11) % len(names)]
    return " ".join(f"{SENTENCE.format(pick(n), pick(n + 5) + str(seed), pick(n + 1))}" for n in range(count))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Curates as a config of the page says, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def curated(config: dict) -> tuple[Corpus, StageOutput]:
        out = StageOutput(path=tmp_path / "corpus", scratch=tmp_path / "scratch")
        out.path.mkdir()
        curate(options=CurateOptions.of(load(config).config), out=out)
        return Corpus(out.path), out

    return curated


def test_the_archives_of_a_crawl_are_read(run):
    Path("crawl").mkdir()

    def record(kind: str, content: str) -> bytes:
        head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/{kind}\r\n"
        return gzip.compress(f"{head}Content-Length: {len(content)}\r\n\r\n{content}\r\n\r\n".encode())

    page = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>{sentences(1)}</p>"
    picture = "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n"
    whole = record("response", page)
    Path("crawl", "a.warc.gz").write_bytes(
        record("request", "GET /") + whole[:-9] + record("response", picture) + whole
    )
    corpus, _ = run({**ARCHIVES, "data": {**ARCHIVES["data"], "filters": [], "held_out": 1e-9}})
    assert [text for batch in corpus.documents() for text in batch.texts] == [sentences(1)]
    reasons = {row["reason"] for row in corpus.rejects().to_pylist()}
    assert reasons == {"no_page", "broken_archive", "no_html"}


def test_every_reason_is_in_the_table():
    """Those that the readers of archives give, read from their source."""
    folder = Path(__file__).parents[1] / "llama3_plugins" / "sources"
    code = "".join((folder / f"{name}.py").read_text("utf-8") for name in ("warc", "warc_records", "http_body"))
    given = set(re.findall(r'(?:NoPageError\(|reject\(f"[^"]*@[^"]*", |_broken\(window, start, |else )"(\w+)"', code))
    assert {"no_html", "http_status", "no_length", "broken_header", "wrong_length", "no_type"} <= given
    assert given <= TOLD


def test_the_bounds_of_the_page_are_known(run):
    Path("texts.jsonl").write_text("".join(json.dumps({"text": sentences(n)}) + "\n" for n in range(4)))
    corpus, _ = run({"data": BOUNDS["data"] | {"filters": []}})
    assert len(corpus) == 4
    assert load(BOUNDS).config.data.bounds.memory_mb == 1024


def test_benchmarks_are_taken_out_as_the_page_tells(run):
    asked, facts = ([" ".join(f"{name}{n}x{k}" for k in range(20)) for n in range(2)] for name in ("sum", "fact"))
    words = facts[1].split()
    texts = [sentences(n) for n in range(8)]
    texts[1] += "\n" + asked[0]
    texts[2] += "\n" + facts[0]
    texts[3] = facts[0] + "\n" + texts[3]
    texts[4] += "\n" + " ".join(words[:11])
    texts[5] += "\n" + " ".join(words[8:19])
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("sums.jsonl").write_text("".join(json.dumps({"question": text, "answer": "a b"}) + "\n" for text in asked))
    Path("facts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in [*facts, "too short"]))
    _, out = run(BENCHMARKS)
    lines = [f"{line}\n" for line in told_benchmarks(out.metrics)]
    assert "".join(lines) == FOUND


def test_the_program_prints_what_the_page_shows():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(PROGRAM, "docs/corpus.md", "exec"), {})
    assert printed.getvalue() == PRINTED


def test_the_alarm_of_the_page_stops_a_run(run):
    texts = [sentences(n) for n in range(10)] + [f"{n} {n}" for n in range(20)]
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.raises(DataError, match="L3-DAT-123"):
        run(ALARM)
