"""`llama3 compare`: three small runs side by side, two of which can be compared; and what is told where nothing can."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from llama3.artifacts.run import RunDir
from llama3.cli import app as cli
from llama3.evaluation.audit import read_suites
from llama3.evaluation.step_changes import told_change
from llama3.evaluation.told_changes import change_cells

WORDS = ["alpha", "beta", "gamma", "count", "value", "index", "total", "first", "last", "read", "write", "item"]


def call(*args):
    with pytest.raises(SystemExit) as caught:
        cli.main([*map(str, args)])
    return caught.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs `short`, `long` and `other`, the last on other text."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "text").mkdir()
    for n in range(40):
        lines = [" ".join(WORDS[(n * 7 + i * i * 5 + j * (i + n)) % 12] for j in range(9)) + f" {n}" for i in range(6)]
        (folder / "text" / f"{n}.txt").write_text("\n".join(lines))
    train = {"microbatch_tokens": 4096, "precision": "fp32", "warmup": 2, "checkpoint_every": 1000, "lr": 5e-3}
    config = {
        "run": {"dir": str(folder), "threads": 1},
        "data": {"sources": [{"name": "files", "path": str(folder / "text")}], "filters": [], "held_out": 0.4,
                 "lines": {"enabled": False}, "minhash": {"enabled": False}},
        "tokenizer": {"vocab_size": 300, "num_special": 16},
        "model": {"preset": "tiny", "dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64,
                  "max_seq_len": 64},
        "pretrain": {"batch": 4, "seq_len": 32, "log_every": 2, **train},
        "post_training": {"rounds": 0},
        "quantization": ["int8"],
        "evaluation": {"limit": 16, "max_tokens": 4, "tasks": ["bits_per_byte", "harmless"]},
        "logging": [{"name": "jsonl"}],
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    for name, changes in {"short": ["pretrain.steps=4"], "long": ["pretrain.steps=80"],
                          "other": ["pretrain.steps=4", "data.held_out=0.2"]}.items():  # fmt: skip
        overrides = [part for change in [f"run.name={name}", *changes] for part in ("--set", change)]
        assert not call("run", path, *overrides), name
    path.unlink()  # it would look like a run's
    return folder


def test_each_run_is_held_against_the_first_item_by_item(runs, capsys):
    assert not call("compare", runs / "short", runs / "long", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == ["short", "long"]
    bits = found["suites"]["bits_per_byte"]
    short, long = bits["models"]["short"], bits["models"]["long"]
    old, new = (
        read_suites(RunDir(runs / name).current()["evaluate-final"])["bits_per_byte"] for name in found["models"]
    )
    figures = [suite.column("score").sum() / suite.column("weight").sum() for suite in (old, new)]
    assert [short["figure"]["rate"], long["figure"]["rate"]] == pytest.approx(figures)
    assert long["change"] == pytest.approx((figures[0] - figures[1]) / figures[0])
    assert 0 < long["paired_low"] < long["change"] < long["paired_high"]
    assert (bits["better"], long["way"]) == ("lower", "better")
    assert (short["change"], short["way"], short["why"]) == (None, "", "")
    assert found["suites"]["harmless"]["models"]["long"]["way"] == "not told apart"
    # The other way round.
    assert not call("compare", runs / "long", runs / "short", "--json")
    turned = json.loads(capsys.readouterr().out)["suites"]["bits_per_byte"]["models"]["short"]
    assert (turned["way"], turned["change"] < 0) == ("worse", True)


def test_what_was_measured_otherwise_is_shown_and_not_compared(runs, capsys):
    assert not call("compare", runs / "short", runs / "other", runs / "long")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["SUITE", "MODEL", "FIGURE", "CHANGE", "INTERVAL"]
    (row,) = [line for line in lines if line.startswith("bits_per_byte") and " other " in line]
    assert re.search(r"\d\.\d{3} \[", row)
    assert "different corpus" in row
    (row,) = [line for line in lines if line.startswith("bits_per_byte") and " long " in line]
    assert row.rstrip().endswith("better")
    assert re.search(r" \+\d+\.\d %  +\[\+\d+\.\d, \+\d+\.\d\] ", row), "of costs in percent"
    (row,) = [line for line in lines if line.startswith("harmless") and " long " in line]
    assert re.search(r" [+-]\d+\.\d pt  +\[[+-]\d+\.\d, [+-]\d+\.\d\] ", row), "of shares in points"


def test_models_of_one_run_are_compared_too(runs, capsys, tmp_path):
    out = tmp_path / "told"
    models = ("--model", "final", "--model", "int8")
    assert not call("compare", runs / "short", runs / "long", *models, "--out", out, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == ["short final", "short int8", "long final", "long int8"]
    assert found == {"schema_version": 1, **json.loads((out / "comparison.json").read_text())}
    page = (out / "comparison.html").read_text()
    assert page.count("<svg") == 3, "the changes of two suites, and the loss"
    assert "<script" not in page
    assert "loss: pretrain" in page
    assert "short int8" in page


def test_what_is_missing_is_told_at_once(runs, capsys, tmp_path):
    assert call("compare", runs / "short", tmp_path, runs / "long", "--model", "sft") == 1
    err = capsys.readouterr().err
    assert "L3-EVL-090" in err
    assert err.count("L3-EVL-091") == 2
    assert "measured are base, final, int8" in err
    assert call("compare", runs / "short") == 2
    assert "L3-EVL-092" in capsys.readouterr().err
    assert call("compare", runs / "short", runs / "short") == 2


@pytest.mark.parametrize(
    ("ends", "cells"),
    [
        ((0.0004, 0.0002, 0.0006), ("+0.04 pt", "[+0.02, +0.06]")),
        ((-0.0004, -0.0006, -0.0002), ("-0.04 pt", "[-0.06, -0.02]")),
        ((0.0004, -0.0002, 0.0006), ("+0.0 pt", "[-0.0, +0.1]")),
        ((0.033, 0.012, 0.054), ("+3.3 pt", "[+1.2, +5.4]")),
    ],
)
def test_a_change_that_excludes_0_shows_that_it_does(ends, cells):
    assert change_cells(*ends, "higher") == cells
    row = dict(zip(("change", "paired_low", "paired_high"), ends, strict=True)) | {"better": "higher", "way": "-"}
    assert told_change(row) == f"{cells[0].removesuffix('pt')}points {cells[1]}: -"
