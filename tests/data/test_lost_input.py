"""Input that is lost is told: on the console, in the report, with the reason."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_texts import prose
from staged_texts import staged

from llama3.artifacts.run import RunDir
from llama3.config.schema import Config
from llama3.data import staging
from llama3.data.corpus import Corpus
from llama3.data.curate import CurateOptions, curate
from llama3.data.documents import DocumentBatch, Reject
from llama3.data.ledger import Losses, lost_input
from llama3.data.writing import PartWriter
from llama3.errors import ArtifactError, DataError


def lines(texts: list[str], **more: object) -> bytes:
    return b"".join(json.dumps({"text": text, **more}).encode() + b"\n" for text in texts)


def texts_of(corpus: Corpus) -> list[str]:
    return [text for batch in corpus.documents(None) for text in batch.texts]


def test_one_bad_value_beside_a_text_costs_no_text(tmp_path: Path, curated: Callable) -> None:
    good = [prose(n) for n in range(6)]
    rows = [
        lines([good[0]], url="http://x/\ud83d"),
        lines([good[1]], url=7, date={"a": 1}),
        lines([good[2]], date="\udfff"),
        b'{"text": ' + json.dumps(good[3]).encode() + b', "size": ' + b"9" * 5000 + b"}\n",
        b'{"text": ' + json.dumps(good[4]).encode() + b', "score": NaN, "x": 1e999}\n',
        b"\xef\xbb\xbf" + lines([good[5]]),
        lines(["half \ud800 a pair"]),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(rows))
    corpus, out = curated(sources=[{"name": "jsonl", "path": str(tmp_path)}])
    assert texts_of(corpus) == good
    assert out.metrics["rejects"] == {"read.not_utf8": 1}


def test_one_bad_value_in_a_parquet_column_costs_no_text(tmp_path: Path, curated: Callable) -> None:
    good = [prose(n) for n in range(3)]
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"u0", b"\xff\xfe", b"u2"], pa.binary()).buffers())
    late = pa.array([0, 2**62, None], pa.timestamp("us"))
    pq.write_table(pa.table({"text": good, "url": broken, "date": late}), tmp_path / "a.parquet")
    corpus, _ = curated(sources=[{"name": "parquet", "path": str(tmp_path)}])
    (batch,) = corpus.documents(None)
    assert batch.texts == good
    assert batch.column("url") == ["u0", r"\xff\xfe", "u2"]
    assert batch.column("date")[1:] == ["", ""]


@pytest.mark.parametrize(
    "layout",
    [
        lambda column: column.dictionary_encode(),
        lambda column: column.cast(pa.string_view()),
        lambda column: column.cast(pa.large_string()),
        lambda column: column.cast(pa.binary()),
        lambda column: column.cast(pa.binary()).cast(pa.large_binary()).dictionary_encode(),
    ],
    ids=["dictionary", "string_view", "large", "binary", "dictionary of bytes"],
)
def test_text_in_any_layout_of_parquet(tmp_path: Path, curated: Callable, layout: Callable) -> None:
    good = [prose(n) for n in range(4)]
    pq.write_table(pa.table({"text": layout(pa.array(good))}), tmp_path / "a.parquet")
    corpus, _ = curated(sources=[{"name": "parquet", "path": str(tmp_path)}])
    assert texts_of(corpus) == good


def test_a_column_of_nulls_is_no_text_and_no_other_type(tmp_path: Path, curated: Callable) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [prose(1)]}), tmp_path / "b.parquet")
    _, out = curated(sources=[{"name": "parquet", "path": str(tmp_path)}])
    assert out.metrics["rejects"] == {"read.no_text": 3}


def test_where_nothing_is_read_the_first_of_each_reason_is_told(tmp_path: Path, curated: Callable) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"Body": "a text", "id": "1"}) + "\n{\n")
    with pytest.raises(DataError) as told:
        curated(sources=[{"name": "jsonl", "path": str(tmp_path / "a.jsonl")}])
    (problem,) = told.value.problems
    assert problem.code == "L3-DAT-101"
    assert "read.no_text 1 (" in problem.why
    assert "a.jsonl:1: no string under 'text'; there is one under 'Body', 'id')" in problem.why
    assert "read.broken_json 1 (" in problem.why
    mend = "mend the sources, or their options (llama3 plugins show NAME)"
    assert problem.fix == f"{mend}; `text` of a source of rows names the field that holds the text"


def test_tables_without_rows_are_told_as_empty(tmp_path: Path, curated: Callable) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"none of 1 shards gave a document\. taken out: nothing: they are empty"):
        curated(sources=[{"name": "parquet", "path": str(tmp_path)}])


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"x" * 99, "raise max_document_bytes of the source"),
        (b"caf\xe9", "write the files in UTF-8"),
        (b"a\0b", "give text, not what a program has packed"),
    ],
)
def test_where_nothing_is_read_the_advice_follows_the_reason(
    tmp_path: Path, curated: Callable, data: bytes, advice: str
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError) as told:
        curated(sources=[{"name": "files", "path": str(tmp_path), "max_document_bytes": 64}])
    assert [(problem.code, problem.fix) for problem in told.value.problems] == [("L3-DAT-101", advice)]


def test_losses_are_counted_by_reason_with_examples(tmp_path: Path, curated: Callable) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines([prose(1), prose(2)]) + b"broken\n" * 5)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines([prose(n) for n in range(50)]))[:-9])
    (tmp_path / "notes.csv").write_text("a,b")
    _, out = curated(sources=[{"name": "jsonl", "path": str(tmp_path)}])
    by_reason = {loss["reason"]: loss for loss in out.metrics["losses"]}
    assert {reason: loss["count"] for reason, loss in by_reason.items()} == {
        "shard_quarantined": 1,
        "broken_json": 5,
        "other_ending": 1,
    }
    assert [example["where"] for example in by_reason["broken_json"]["examples"]] == [
        f"{tmp_path}/a.jsonl:{n}" for n in (3, 4, 5)
    ]
    told = lost_input(out.metrics)
    assert "1 of 2 shards" in told[0]
    assert "b.jsonl.gz: cannot be read to its end" in told[0]
    assert any("5 x broken_json" in line and "and 4 more" in line for line in told)
    assert lost_input({}) == []


CONFIG = """
run: {{name: q, device: cpu, dir: "{runs}"}}
data: {{sources: [{{name: jsonl, path: "{texts}"}}], filters: []}}
tokenizer: {{vocab_size: 400}}
model: {{preset: tiny, dim: 32, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn_dim: 32, max_seq_len: 64}}
pretrain: {{steps: 1, batch: 1, seq_len: 32, precision: fp32}}
post_training: {{rounds: 0}}
evaluation: {{limit: 2, max_tokens: 4}}
"""


def exit_code(command: Callable) -> int:
    try:
        return command() or 0
    except SystemExit as stop:
        return int(stop.code or 0)


def test_a_run_tells_its_losses_every_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama3.cli import main

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(lines([prose(n) for n in range(300)]))
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(gzip.compress(lines([prose(n) for n in range(50)]))[:-9])
    (tmp_path / "c.yaml").write_text(CONFIG.format(runs=tmp_path / "runs", texts=tmp_path / "in"))
    hashes = []
    for again in (False, True):
        if again:
            os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
        monkeypatch.setattr(sys, "argv", ["llama3", "run", str(tmp_path / "c.yaml")])
        assert exit_code(main) == 0, capfd.readouterr().err
        said = " ".join(capfd.readouterr().err.split())
        assert "1 of 2 shards" in said
        assert "cannot be read to its end" in said
        assert again == ("curate nothing to do" in said)
        report = json.loads((tmp_path / "runs" / "q" / "report.json").read_text())
        (loss,) = report["losses"]
        assert "b.jsonl.gz" in loss["examples"][0]["where"]
        assert "L3-SRC-010" in loss["examples"][0]["detail"]
        assert "b.jsonl.gz" in (tmp_path / "runs" / "q" / "report.html").read_text()
        hashes.append(report["artifacts"])
    assert hashes[0] == hashes[1], "to touch a file is not to change it"


def test_losses_are_bounded() -> None:
    losses = Losses()
    losses.add(Reject(f"f{n}", "binary", "x" * 10_000, "web") for n in range(100))
    (row,) = losses.rows
    assert row["count"] == 100
    assert len(json.dumps(row)) < 3000


# -- memory and disk ---------------------------------------------------------------------------------


def test_no_batch_grows_with_the_size_of_documents(
    tmp_path: Path, curated: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever reads documents back gets them by bytes, not by number."""
    monkeypatch.setattr(staging, "GROUP_BYTES", 100_000)
    monkeypatch.setattr("llama3.data.reading.BATCH_BYTES", 100_000)
    big = [prose(n, 6000) for n in range(40)]  # about 38 KB each
    (tmp_path / "a.jsonl").write_bytes(lines(big))
    pq.write_table(pa.table({"text": [prose(100 + n, 6000) for n in range(40)]}), tmp_path / "b.parquet")
    sizes: list[int] = []

    really = DocumentBatch.__init__

    def counted(self: DocumentBatch, *given: Any, **named: Any) -> None:
        really(self, *given, **named)
        sizes.append(self.records.nbytes)

    monkeypatch.setattr(DocumentBatch, "__init__", counted)
    sources = [{"name": name, "path": str(tmp_path)} for name in ("jsonl", "parquet")]
    corpus, _ = curated(sources=sources, filters=[])
    assert sum(len(batch) for batch in corpus.documents(None)) == 80
    assert sum(count["bytes"] for split in corpus.counts.values() for count in split.values()) > 2_000_000
    assert max(sizes) < 300_000


def test_a_source_that_gives_all_at_once_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "GROUP_BYTES", 10_000)
    texts = [prose(n, 300) for n in range(50)]
    batch = DocumentBatch.of(texts, source="s", urls=[""] * 50)
    (portion,) = staged(tmp_path, 0, [batch, batch]).portions
    assert portion.text().num_row_groups >= 20
    back = [text for _, piece in portion.batches(np.ones(100, bool)) for text in piece.texts]
    assert back == texts * 2


def test_a_curation_that_fails_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(prose(1))
    options = CurateOptions.of(Config.model_validate({"data": {"sources": [{"name": "files", "path": str(tmp_path)}]}}))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with RunDir(tmp_path / "run") as run:
        with monkeypatch.context() as patch:
            patch.setattr(PartWriter, "write", full)
            with pytest.raises(ArtifactError, match="L3-RUN-003"):
                run.execute(curate, {}, options)
        assert [path for path in run.scratch.rglob("*") if path.is_file()] == []
        run.execute(curate, {}, options)


def test_a_stage_that_takes_out_too_much_is_named(tmp_path: Path, curated: Callable) -> None:
    short = [prose(100 + n, 6) for n in range(30)]
    (tmp_path / "a.jsonl").write_bytes(lines([*short, prose(1), prose(2)]))
    (tmp_path / "b.jsonl").write_bytes(lines([prose(n) for n in range(10, 40)]))
    (tmp_path / "few.jsonl").write_bytes(lines(short[:5]))
    sources = [{"name": "jsonl", "path": str(tmp_path / f"{n}.jsonl"), "source": n} for n in ("a", "b", "few")]
    _, out = curated(sources=sources)
    assert out.metrics["alarms"] == [
        {
            "stage": "filter.gopher",
            "source": "a",
            "removed": 0.9375,
            "of": 32,
            "reasons": {"stop_words": 10, "words": 20},
        }
    ]
    (line,) = lost_input(out.metrics)
    told = "filter.gopher took out 93.8 % of 32 documents or of their text, mostly words, stop_words"
    assert line == f"source 'a': {told}"
    with pytest.raises(DataError, match=r"source 'a': filter\.gopher takes out too much.*L3-DAT-123"):
        curated(sources=sources, alarm={"action": "stop"})
    _, out = curated(sources=sources, alarm={"most": 0.95, "action": "stop"})
    assert out.metrics["alarms"] == []


def test_lines_that_are_taken_out_raise_the_alarm_by_their_bytes(tmp_path: Path, curated: Callable) -> None:
    menu = "\n".join(f"Item {n} of the menu that stands on every page of this place" for n in range(60))
    (tmp_path / "a.jsonl").write_bytes(lines([f"{menu}\n{prose(n)}" for n in range(30)]))
    sources = [{"name": "jsonl", "path": str(tmp_path)}]
    _, out = curated(sources=sources, minhash={"enabled": False}, alarm={"most": 0.5})
    (alarm,) = out.metrics["alarms"]
    assert (alarm["stage"], alarm["of"]) == ("lines", 30)
    assert 0.7 < alarm["removed"] < 0.9
