"""Synthetic text as a stage before curation: seeded, resumed, with its provenance, and the guard against collapse. A
server answers over real sockets; the models on this machine are real and know nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import write_model

from llama3.annotating.folder import ANNOTATIONS, Opened
from llama3.annotating.items import texts_of_run
from llama3.annotating.judgements import Annotation
from llama3.artifacts.run import RunDir
from llama3.cli import main
from llama3.config.synthesis import CollapseSection
from llama3.data.corpus import Corpus
from llama3.synthesis import asked, passages, text_of_answer, writer_of
from llama3.tokenizer import Tokenizer

WORDS = ["the", "of", "and", "to", "that", "with", "be", "have"]
WORDS += [
    "ship",
    "sea",
    "wind",
    "harbour",
    "captain",
    "letter",
    "morning",
    "island",
    "rope",
    "lantern",
    "storm",
    "anchor",
]


def text(number: int, words: int = 120) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, words)).capitalize() + "."


class Answers(BaseHTTPRequestHandler):
    """A model that turns the words of a text around; or, if its server is `dull`, always says the same."""

    def do_GET(self) -> None:
        self._say({"data": [{"id": "turner-1"}]})

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        server.seen.append((prompt, body["seed"]))
        if len(server.seen) > server.most:
            self.send_error(503)
            return
        turned = " ".join(reversed(prompt.split("Text:\n")[1].split()))
        said = {"Rew": turned, "Wri": f"Question: What is told of the ship?\nAnswer: {turned[:60]} is told of it."}
        said = {start: ("\ud83d " + words if server.odd else words) for start, words in said.items()}
        answer = "The sea and the ship are to be with the wind of the morning." if server.dull else said[prompt[:3]]
        self._say({"choices": [{"message": {"content": answer}}]})

    def _say(self, what: Any) -> None:
        data = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.seen, made.most, made.dull, made.odd = [], 10**9, False, False
    made.url = f"http://127.0.0.1:{made.server_address[1]}/v1"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


@pytest.fixture
def config(tmp_path: Path, server: Any) -> Path:
    (tmp_path / "texts").mkdir()
    for n in range(20):
        (tmp_path / "texts" / f"{n:02}.txt").write_text(text(n) + "\n\n" + text(100 + n))
    section = {"model": server.url, "tasks": ["rephrase", "questions"], "documents": 12, "passage": 900, "parallel": 3}
    data = {
        "sources": [{"name": "files", "path": str(tmp_path / "texts"), "source": "own"}],
        "filters": [],
        "held_out": 0.3,
        "synthetic": section,
    }
    place = tmp_path / "c.yaml"
    run = {"dir": str(tmp_path), "name": "run", "device": "cpu", "seed": 5}
    place.write_text(json.dumps({"run": run, "data": data}))
    return place


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(list(map(str, arguments)))
    return int(done.value.code or 0)


def rows_of(run: Path, name: str = "rows") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "artifacts/synthetic" / f"{name}.jsonl").read_text().splitlines()]


def test_rows_tell_where_they_come_from_and_are_curated(config, server, tmp_path, capsys):
    assert exit_code("data", "curate", config) == 0, capsys.readouterr().err
    run = tmp_path / "run"
    rows = rows_of(run)
    corpus = Corpus(run / "artifacts/curate")
    documents = {d["id"]: d for b in corpus.documents(None, "own") for d in b.records.to_pylist()}
    assert Counter(row["task"] for row in rows) == {"rephrase": 24, "questions": 24}, "two passages of 12 documents"
    assert len({row["of"] for row in rows}) == 12
    for row in rows:
        document = documents[row["of"]]
        assert row["origin"] == document["origin"]
        assert (row["of_url"], row["of_source"]) == (document["url"], "own")
        assert (row["model"], row["seed"], row["kind"]) == ("turner-1", 5, "prose")
        passage = list(passages(document["text"], 900))[row["passage"]]
        if row["task"] == "rephrase":
            assert row["text"].split() == passage.split()[::-1]
            assert row["style"] in next(prompt for prompt, _ in server.seen if passage in prompt and "Rew" in prompt)
    made = {d["url"]: d for b in corpus.documents(None, "synthetic") for d in b.records.to_pylist()}
    assert set(made) <= {row["url"] for row in rows}
    assert len(made) >= 24
    origins = {d["origin"]: d["split"] for d in documents.values()}
    assert {origins[d["origin"]] for d in made.values()} == {"train", "held_out"}
    assert all(d["split"] == origins[d["origin"]] for d in made.values()), "none leaks over the split"
    assert {seed for _, seed in server.seen} == {5}
    checked = rows_of(run, "to_check")
    assert len(checked) == 5, "a tenth of 48"
    assert all({**row, "asked": ""} in [{**made, "asked": ""} for made in rows] for row in checked)
    assert {row["asked"] for row in checked} <= {prompt for prompt, _ in server.seen}
    page = " ".join((run / "report.html").read_text().split())
    assert "turner-1 made " in page
    assert re.search(
        r"<th scope=\"row\">rephrase</th><td class=\"n\">24</td>(<td class=\"n\">[01]\.\d{3}</td>){6}", page
    )
    asked_before = len(server.seen)
    assert exit_code("data", "curate", config) == 0
    assert len(server.seen) == asked_before, "found, not made again"
    (_, sample), folder = texts_of_run(RunDir(run))["synthetic"], run / ANNOTATIONS
    folder.mkdir()
    annotations = Opened(folder, "check", ["ada"], sample)
    annotations.say("ada", Annotation(sample[0].id, 0, "reject", "now", reason="not true"))
    annotations.close()
    assert exit_code("data", "curate", config) == 0
    page = " ".join((run / "report.html").read_text().split())
    assert (
        "People checked 1 of the 5 texts of synthetic that are to be checked, 2.1 % of all: 1 of them are wrong" in page
    )


def test_what_was_answered_is_not_asked_again(config, server, tmp_path, capsys):
    server.most = 20
    assert exit_code("data", "curate", config) == 1
    assert "L3-EVL-061" in capsys.readouterr().err
    first = {prompt for prompt, _ in server.seen[:18]}  # of whole groups of three
    server.most, server.seen = 10**9, []
    assert exit_code("data", "curate", config) == 0
    assert len(server.seen) == 48 - 18
    assert not first & {prompt for prompt, _ in server.seen}
    asked_before = len(server.seen)
    assert exit_code("data", "curate", config, "--set", "data.synthetic.parallel=1") == 0
    assert len(server.seen) == asked_before, "how many are asked at a time changes no text"
    halves = (tmp_path / "run/artifacts/synthetic/rows.jsonl").read_bytes()
    assert exit_code("data", "curate", config, "--out", tmp_path / "whole") == 0
    assert (tmp_path / "whole/artifacts/synthetic/rows.jsonl").read_bytes() == halves


def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(config, server, tmp_path, capsys):
    assert exit_code("data", "curate", config, "--out", tmp_path / "whole") == 0
    server.seen = []
    for kill in range(3):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
                sys.stderr = sys.stdout = nowhere
                main(["data", "curate", str(config)])
            os._exit(0)
        deadline = time.monotonic() + 60
        while len(server.seen) < 10 * (kill + 1) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert exit_code("data", "curate", config) == 0, capsys.readouterr().err
    for name in ("synthetic/rows.jsonl", "curate/documents/000000.parquet"):
        assert (tmp_path / "run/artifacts" / name).read_bytes() == (tmp_path / "whole/artifacts" / name).read_bytes()
    assert len(server.seen) <= 48 + 3 * 3, "at most what was under way is asked again"


def test_a_model_that_repeats_itself_is_told_and_may_stop_the_run(config, server, capsys):
    server.dull = True
    only = ["--set", "data.synthetic.tasks=[rephrase]", "--set", "data.synthetic.passage=100"]
    assert exit_code("data", "curate", config, *only) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "rephrase: entropy of 3-grams" in told
    assert re.search(r"rephrase: self-BLEU (1\.000|0\.9\d\d), of the passages 0\.", told), told
    server.dull = False
    much = ["--set", "data.synthetic.collapse.most_share=0.1", "--set", "data.synthetic.collapse.action=stop"]
    assert exit_code("data", "curate", config, *much) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "% of the text that is read is synthetic (most_share 0.1)" in told
    assert "L3-SYN-003" in told


def test_a_varied_model_raises_no_alarm(config, tmp_path, capsys):
    assert exit_code("data", "curate", config, "--set", "data.synthetic.tasks=[rephrase]", "--json") == 0
    assert "synthetic text:" not in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run/artifacts/synthetic/manifest.json").read_text())
    assert manifest["metrics"]["signs"] == []
    assert 0.2 < manifest["metrics"]["share"] < 0.4


@pytest.mark.parametrize(
    "key", ["data.synthetic.sources=[nobody]", "data.synthetic.model=ftp://x", "data.synthetic.model=/no/model"]
)
def test_what_cannot_be_asked_is_refused(config, server, tmp_path, key, capsys):
    assert exit_code("data", "curate", config, "--set", key) != 0
    assert re.search(r"L3-(CFG-028|GEN-007|ART)", capsys.readouterr().err)
    assert server.seen == []
    assert not (tmp_path / "run/artifacts/synthetic").exists()


def test_evaluations_and_audits_read_the_text_that_a_run_has_read(config, server, knows_nothing, tmp_path, capsys):
    assert exit_code("data", "curate", config) == 0, capsys.readouterr().err
    corpus = (tmp_path / "run/artifacts/curate/documents/000000.parquet").read_bytes()
    more = ["--config", config, "--set", "evaluation={tasks: [bits_per_byte]}", "--json"]
    assert exit_code("evaluate", knows_nothing, *more, "--out", tmp_path / "evaluated") == 0, capsys.readouterr().err
    assert exit_code("audit", knows_nothing, knows_nothing, *more, "--out", tmp_path / "audited") in (0, 5)
    for folder in ("evaluated", "audited"):
        assert len(rows_of(tmp_path / folder)) == 48
        assert (tmp_path / folder / "artifacts/curate/documents/000000.parquet").read_bytes() == corpus


def test_only_prose_is_rewritten(config, server, capsys):
    assert exit_code("data", "curate", config, "--set", "data.sources.0.kind=code") == 1
    assert "L3-SYN-002" in capsys.readouterr().err
    assert server.seen == []


def test_half_a_character_of_an_answer_costs_no_run(config, server, tmp_path, capsys):
    server.odd = True
    assert exit_code("data", "curate", config, "--set", "data.synthetic.tasks=[rephrase]") == 0, capsys.readouterr().err
    assert all(row["text"].startswith("? ") for row in rows_of(tmp_path / "run"))


def test_a_text_that_is_there_often_is_drawn_once(config, server, tmp_path):
    again = (tmp_path / "texts" / "00.txt").read_text()
    for n in range(20, 60):
        (tmp_path / "texts" / f"{n}.txt").write_text(again)
    assert exit_code("data", "curate", config, "--set", "data.synthetic.documents=15") == 0
    rows = rows_of(tmp_path / "run")
    assert len({row["of"] for row in rows}) == 15
    assert len({row["url"] for row in rows}) == len(rows) == 60


def test_dedup_makes_no_text(config, server):
    assert exit_code("data", "dedup", config) == 0
    assert server.seen == []


PAGE = (Path(__file__).parents[1] / "docs" / "corpus.md").read_text("utf-8")


def test_the_config_of_the_docs_runs_and_its_limits_are_the_defaults(server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = (block for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.M) if "synthetic:" in block)
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text(n)}) + "\n" for n in range(12)))
    Path("c.yaml").write_text(block.replace("http://127.0.0.1:8000/v1", server.url))
    assert exit_code("data", "curate", "c.yaml", "--out", "run") == 0, capsys.readouterr().err
    assert {row["task"] for row in rows_of(tmp_path / "run")} == {"rephrase", "questions", "extract"}
    keys = set(rows_of(tmp_path / "run")[0])
    assert keys >= {"of", "passage", "task", "style", "model", "seed", "prompt"}
    told = dict(re.findall(r"`((?:most|least)_\w+)`, ([\d.]+)", PAGE.split("## Synthetic text")[1]))
    defaults = CollapseSection().model_dump(exclude={"action"})
    assert {name: float(value) for name, value in told.items()} == defaults


# -- a passage and its answer ------------------------------------------------------------------------


@given(st.text("ab.\n 。", max_size=300), st.integers(5, 40))
def test_passages_are_the_text(whole, most):
    parts = list(passages(whole, most))
    assert "".join("".join(parts).split()) == "".join(whole.split())
    assert all(0 < len(part) <= most for part in parts)


PASSAGE = text(1, 60)


@pytest.mark.parametrize(
    ("task", "answer", "expected"),
    [
        ("rephrase", f"Sure, here is the new text:\n{text(2, 60)}", (text(2, 60), "")),
        ("rephrase", PASSAGE, ("", "copied")),
        ("rephrase", text(2, 6), ("", "too_short")),
        ("rephrase", text(2, 400), ("", "too_long")),
        ("rephrase", "I'm sorry, but I cannot help with that request.", ("", "refused")),
        ("rephrase", "", ("", "garbage")),
        ("rephrase", "\ufffd\ufffd x\x00y", ("", "garbage")),
        (
            "questions",
            "1. **Question:** What is it?\n**Answer:** The sea.\n\nQ2: Where is the ship?\nA: In the harbour.",
            ("Question: What is it?\nAnswer: The sea.\n\nQuestion: Where is the ship?\nAnswer: In the harbour.", ""),
        ),
        ("questions", "The ship is in the harbour of the island.", ("", "no_form")),
        (
            "extract",
            "- The ship is in the harbour.\n2. The captain has a letter to send.\nNone.",
            ("The ship is in the harbour.\nThe captain has a letter to send.", ""),
        ),
        ("extract", "None of it is.", ("", "no_form")),
    ],
)
def test_an_answer_is_read(task, answer, expected):
    assert text_of_answer(task, PASSAGE, answer) == expected
    assert PASSAGE in asked(task, PASSAGE)


@pytest.fixture
def knows_nothing(tmp_path):
    """A tiny model with random weights, on disk."""
    write_model(str(tmp_path / "model"), Tokenizer.train([text(n) for n in range(20)], 300, 16), max_seq_len=1024)
    return tmp_path / "model"


def test_a_model_on_this_machine_answers_the_same_whatever_is_asked_beside_it(knows_nothing):
    writer = writer_of(str(knows_nothing), max_tokens=12, temperature=1.0, device="cpu")
    prompts = [asked("extract", text(n, 8)) for n in range(5)]
    together = writer.write(prompts, seed=3)
    assert [writer.write([prompt], seed=3)[0] for prompt in prompts] == together
    assert writer.write(prompts, seed=4) != together
    assert writer.name.startswith("local-")


def test_a_model_that_knows_nothing_makes_nothing(config, knows_nothing, tmp_path, capsys):
    more = ["--set", f"data.synthetic.model={knows_nothing}", "--set", "data.synthetic.max_tokens=4"]
    assert exit_code("data", "curate", config, *more, "--set", "data.synthetic.documents=2") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "none of 8 answers is text that could be used" in told
    assert "L3-SYN-001" in told
    assert not (tmp_path / "run/artifacts/synthetic").exists()
