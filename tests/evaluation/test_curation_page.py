"""The page of a corpus: every figure of it, samples before and after, and nothing of a text that is markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_report_page import Page, page, readable

from llama3.cli import main
from llama3.data.before_after import CHARACTERS, read_samples
from llama3.data.corpus import Corpus

WORDS = ["the", "of", "and", "to", "that", "with", "be", "have", "ship", "sea", "wind", "harbour", "rope", "storm"]
MENU = "Home, news, weather and the menu of the harbour"
ASKED = "How many ropes has a ship of the line that lies in the harbour for the winter?"


def text(number: int, words: int = 120) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, words)) + "."


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["data", *map(str, arguments)])
    return int(done.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    texts = [f"{text(n)}\n{MENU}" for n in range(10)]
    texts += [texts[1], texts[2].replace(".", " again."), "<script>alert(1)</script>", text(20)]
    texts += [f"{text(30)}\n{ASKED}\n{text(31)}", "<b>" + "short " * 3]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "web.jsonl").write_text(rows + "no json\n")
    (tmp_path / "book.txt").write_text("x" * 50_000 + " " + text(40))
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": ASKED}) + "\n")
    data = {
        "sources": [
            {"name": "jsonl", "path": str(tmp_path / "web.jsonl"), "source": "web", "language": "en"},
            {"name": "files", "path": str(tmp_path / "book.txt"), "source": "book"},
        ],
        "lines": {"max_count": 6},
        "decontaminate": {"benchmarks": {"ropes": {"path": str(tmp_path / "asked.jsonl")}}, "action": "mask"},
    }
    place = tmp_path / "c.yaml"
    place.write_text(json.dumps({"run": {"dir": str(tmp_path), "name": "run"}, "data": data}))
    return place


def test_the_page_has_every_figure_and_samples_of_every_reason(config, tmp_path, capsys):
    assert run("curate", config) == 0
    printed = capsys.readouterr()
    assert "ropes: 1 examples, 0 too short to be found, 1 found in 1 documents, 0 left\n" in printed.out
    assert f"report: {tmp_path / 'run' / 'report.html'}" in printed.err
    shown = Page((tmp_path / "run" / "report.html").read_text()).root
    readable(shown)
    assert shown.all("script") == []
    assert "<script>alert(1)</script>" in shown.text, "as text"
    corpus = Corpus(tmp_path / "run" / "artifacts" / "curate")
    manifest = json.loads((corpus.path / "manifest.json").read_text())
    for stage, cells in manifest["metrics"]["funnel"].items():
        documents, size = (sum(cell[unit] for cell in cells.values()) for unit in ("documents", "bytes"))
        row = rf"{re.escape(stage)} {documents:,} [\d.]+ % {size:,} [\d.]+ %"
        assert re.search(row, shown.text), row
    for reason, count in manifest["metrics"]["rejects"].items():
        assert f"{reason} {count} " in shown.text
    assert re.search(r"source documents share web \d+ \d", shown.text)
    assert re.search(r"language documents share en \d+ \d", shown.text)
    assert re.search(r"kind documents share prose \d+ 100.0 %", shown.text)
    assert "ropes 1 1 0 1 masked 0" in shown.text
    assert "broken_json" in shown.text


def test_samples_show_what_changed(config, tmp_path, capsys):
    assert run("curate", config) == 0
    samples = read_samples(tmp_path / "run" / "artifacts" / "curate")
    by_what = {sample["what"]: sample for sample in samples}
    rejects = json.loads((tmp_path / "run/artifacts/curate/manifest.json").read_text())["metrics"]["rejects"]
    assert set(by_what) == {name for name in rejects if not name.startswith("read.")} | {"changed"}
    assert MENU in by_what["changed"]["before"]
    assert MENU not in by_what["changed"]["after"]
    masked = by_what["decontaminate.ropes"]
    assert ASKED in masked["before"]
    assert ASKED[:-1] not in masked["after"]
    assert masked["after"].startswith("… ")
    near = by_what["near.near_duplicate"]
    assert "again" in near["before"]
    assert "again" not in near["other"]
    assert "after" not in near
    assert by_what["exact.exact_duplicate"].keys() >= {"before"}
    texts = [sample[name] for sample in samples for name in ("before", "after", "other") if name in sample]
    assert max(map(len, texts)) <= CHARACTERS + 4
    again = (tmp_path / "run/artifacts/curate/samples.jsonl").read_bytes()
    assert run("curate", config, "--out", tmp_path / "again") == 0
    assert (tmp_path / "again/artifacts/curate/samples.jsonl").read_bytes() == again


def test_personal_data_is_in_no_sample(config, tmp_path, capsys):
    """Neither of documents that went for it, nor of those in which it was masked and that lost a line too."""
    rows = [json.loads(line) for line in (tmp_path / "web.jsonl").read_text().splitlines()[:10]]
    for n, row in enumerate(rows[:6]):
        row["text"] = row["text"].replace(f"\n{MENU}", f" write to ann{n}@example.org.\n{MENU}")
    rows += [{"text": f"{text(60 + n)} pay with 4111 1111 1111 1111 today."} for n in range(3)]
    (tmp_path / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filters = "data.filters=[{name: personal_data, email: mask, card: drop}]"
    assert run("curate", config, "--set", filters, "--set", "data.decontaminate={benchmarks: {}}") == 0
    place = tmp_path / "run" / "artifacts" / "curate"
    assert any(
        "personal_data" in row["reason"] or "card" in row["reason"] for row in Corpus(place).rejects().to_pylist()
    )
    samples = read_samples(place)
    assert {row["what"] for row in samples} == {"changed"}, "documents without any are shown"
    for told in ((place / "samples.jsonl").read_text(), (tmp_path / "run" / "report.html").read_text()):
        assert "4111" not in told
        assert "@example.org" not in told


def test_the_report_of_a_whole_run_stays(config, tmp_path):
    assert run("curate", config) == 0
    page = tmp_path / "run" / "report.html"
    page.with_name("report.json").write_text("{}")
    page.write_text("of the whole run")
    assert run("curate", config) == 0
    assert page.read_text() == "of the whole run"


def test_the_report_of_a_run_has_it_too():
    whole = page()
    told = {name: whole.section(name).text for name in ("left", "told", "removed", "shares", "samples")}
    assert "train 80 80.0 % 9,000 90.0 % 80 0" in told["left"]
    assert "source 'web': <much> went" in told["told"]
    assert "near.near_duplicate 20 100.0 %" in told["removed"]
    assert "en 80 100.0 %" in told["shares"]
    assert "as it was read <b>" in told["samples"]
    assert page(curation={}).section("left") is None, "a report of an earlier version"
