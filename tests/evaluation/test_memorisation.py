"""`llama3 evaluate RUN --suite memorisation --suite canaries` on a run that reads few texts and canaries often."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

import llama3
from llama3.artifacts.run import RunDir
from llama3.cli import app as cli
from llama3.data.ngrams import count_ngrams
from llama3.data.plan import TokenPlan
from llama3.evaluation.audit import read_suites

SUITES = [
    {"name": "memorisation", "prompt": 8, "n": 6, "answer": 10, "limit": 40},
    {"name": "canaries", "alternatives": 63},
]


def write_config(folder, **sections):
    (folder / "text").mkdir(exist_ok=True)
    words = ["alpha", "beta", "gamma", "count", "value", "index", "total", "first", "last", "read", "write", "item"]
    for n in range(24):
        lines = [
            " ".join(words[(n * 7 + i * i * 5 + j * (i + 2)) % 12] for j in range(9)) + f" {i * n}." for i in range(6)
        ]
        (folder / "text" / f"{n}.txt").write_text("\n".join(lines))
    train = {"microbatch_tokens": 4096, "precision": "fp32", "warmup": 10, "checkpoint_every": 1000, "lr": 5e-3}
    config = {
        "run": {"name": "small", "dir": str(folder / "runs"), "threads": 1},
        "data": {"sources": [{"name": "files", "path": str(folder / "text")}], "filters": [], "held_out": 0.1,
                 "lines": {"enabled": False}, "canaries": {"count": 4, "copies": [1, 60]}},
        "tokenizer": {"vocab_size": 340, "num_special": 16},
        "model": {"preset": "tiny", "dim": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 128,
                  "max_seq_len": 128},
        "pretrain": {"steps": 250, "batch": 8, "seq_len": 64, **train},
        "post_training": {"rounds": 0},
        "evaluation": {"limit": 8, "max_tokens": 8, "tasks": SUITES},
        "logging": [],
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config | sections))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the config, the directory of the run)."""
    folder = tmp_path_factory.mktemp("memorised")
    path = write_config(folder)
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", str(path)])
    assert not caught.value.code
    return path, folder / "runs" / "small"


@pytest.fixture
def command(capsys):
    def call(name, *args):
        with pytest.raises(SystemExit) as caught:
            cli.main([name, *map(str, args)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def suites(command, path, model, *args):
    code, out, err = command("evaluate", model, "-c", path, "--json", *args)
    return code, json.loads(out)["suites"], err


def test_a_run_s_own_shards_are_asked(command, made):
    path, run = made
    code, found, err = suites(command, path, run)
    assert code == 0, err
    figures = found["memorisation"]
    assert figures["inclusion"]["n"] == figures["verbatim"]["n"] == 40
    assert 0.1 < figures["inclusion"]["rate"] <= figures["verbatim"]["rate"]
    assert figures["by_source"] == {"files": {name: figures[name] for name in ("inclusion", "verbatim")}}
    assert figures["asked"] == {
        "n": 6, "prompt": 8, "generated": 10, "tokens": sum(s.tokens for s in TokenPlan.load(run).sources)
    }  # fmt: skip
    bands = figures["by_frequency"]
    assert sum(row["inclusion"]["n"] for row in bands.values() if row["inclusion"]) == 40
    # What was read sixty times as often is known by heart.
    assert bands["10-99"]["inclusion"]["rate"] > bands["1"]["inclusion"]["rate"]
    # The run measured itself, and found the same.
    assert json.loads((run / "report.json").read_text())["evaluations"]["final"]["memorisation"] == figures


def test_less_is_better_of_what_is_told(made):
    """Shares of what was recited stand in the report; an audit compares the opposite."""
    _, run = made
    page = (run / "report.html").read_text()
    for suite, figure in (("memorisation", "inclusion"), ("canaries", "extracted")):
        assert f'<th scope="row">{suite}</th><td>{figure}</td><td>lower</td>' in page
    read = read_suites(RunDir(run).current()["evaluate-final"])
    assert {name: suite.better for name, suite in read.items()} == dict.fromkeys(("memorisation", "canaries"), "higher")


def test_samples_are_what_they_say(made):
    _, run = made
    plan, tokenizer = TokenPlan.load(run), llama3.load(run).tokenizer
    (folder,) = {path.resolve() for path in (run / "artifacts").glob("evaluate-final")}
    rows = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    rows = [row for row in rows if row["suite"] == "memorisation"]
    for row in rows:
        assert row["score"] == 1 - row["included"]
        assert row["included"] <= row["verbatim"]
        if row["included"]:
            assert row["reference"] in row["answer"]
        ids = tokenizer.encode(row["prompt"] + row["reference"])
        if len(ids) == 14:  # cut elsewhere it is other tokens
            assert count_ngrams(plan, ids[None], 14).tolist() == [[row["occurs"]]]
    assert len({row["id"] for row in rows}) == len(rows) == 40


def test_canaries_with_many_copies_are_extracted_and_others_are_not(command, made):
    path, run = made
    code, found, err = suites(command, path, run, "--suite", "canaries")
    assert code == 0, err
    by_copies = found["canaries"]["by_copies"]
    assert by_copies["60"]["extracted"]["rate"] == 1
    assert by_copies["0"]["extracted"]["rate"] == 0
    assert by_copies["60"]["exposure"] == found["canaries"]["most_exposure"] == 6
    assert by_copies["0"]["exposure"] < 4
    assert [by_copies[n]["extracted"]["n"] for n in by_copies] == [4, 4, 4]
    assert found["canaries"]["extracted"]["n"] == 8


def test_a_model_from_elsewhere_needs_its_shards_named(command, made, tmp_path):
    path, run = made
    shutil.copytree(run / "artifacts" / "final", tmp_path / "model")
    for name in ("manifest.json", "COMMIT"):
        (tmp_path / "model" / name).unlink()
    code, found, err = suites(command, path, tmp_path / "model", "--out", tmp_path / "out")
    assert code == 1
    assert "L3-EVL-080" in err
    assert all("error" in row for row in found.values())
    plan = (run / "artifacts" / "shard" / "plan.json").resolve()
    named = write_config(path.parent, evaluation={"tasks": [{**suite, "path": str(plan)} for suite in SUITES]})
    code, found, err = suites(command, named, tmp_path / "model", "--out", tmp_path / "named")
    assert code == 0, err
    write_config(path.parent)
    assert found == suites(command, path, run)[1]


def test_what_cannot_be_measured_is_refused(command, made, tmp_path):
    _, run = made
    suite = lambda **options: {"tasks": [{"name": "memorisation", **options}]}
    folder = tmp_path / "other"
    folder.mkdir()
    plan = json.loads((run / "artifacts" / "shard" / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"tokenizer": "0" * 64}))
    for code, options in (
        ("L3-EVL-081", {"path": str(tmp_path / "plan.json"), "prompt": 8, "n": 8}),
        ("L3-EVL-082", {"prompt": 100, "n": 30}),
    ):
        path = write_config(folder, evaluation=suite(**options))
        exit_code, _, err = command("evaluate", run, "-c", path, "--out", tmp_path / code)
        assert (exit_code, code in err) == (1, True), err
    for wrong in ({"answer": 3, "n": 4}, {"path": "runs/small"}):
        path = write_config(folder, evaluation=suite(**wrong))
        assert command("evaluate", run, "-c", path)[0] == 2
