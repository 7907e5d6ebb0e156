"""`llama3 scale` on a study of seconds: what it makes, that it goes on where it was killed, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import started
import yaml
from test_recipe import write_text

from llama3.artifacts import Artifact
from llama3.artifacts.files import read_json_lines
from llama3.cli import app as cli
from llama3.preflight import load_config
from llama3.scaling.fits import read_fits
from llama3.scaling.runs import runs_of

CONFIG = {
    "run": {"name": "small", "threads": 1, "device": "cpu"},
    "data": {
        "sources": [{"name": "files", "path": "text"}],
        "filters": [],
        "lines": {"enabled": False},
        "held_out": 0.1,
    },
    "tokenizer": {"vocab_size": 300, "num_special": 12},
    "model": {"dim": 32, "n_layers": 2, "n_heads": 8, "n_kv_heads": 8, "ffn_dim": 64, "max_seq_len": 64},
    "pretrain": {"seq_len": 64, "lr": 1e-2, "warmup": 5, "precision": "fp32", "checkpoint_every": 20},
    "post_training": {"rounds": 0},
    "evaluation": {"limit": 40},
    "logging": [],
    "scale": {
        "budgets": [1.5e8, 3e8, 6e8],
        "batches": [2, 3, 6],
        "sizes": 4,
        "tokens_per_parameter": [0.3, 4],
        "benchmark": {"name": "multiple_choice", "context": 60, "answer": 16},
    },
}
RUNS = 10


def write(folder: Path, **changes) -> Path:
    """A config over the text of `folder`; `changes` are values by dotted path."""
    config = json.loads(json.dumps(CONFIG))
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[key] = value
    (folder / "my-scale.yaml").write_text(yaml.safe_dump(config))
    return folder / "my-scale.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with text, a config, and a finished study."""
    place = tmp_path_factory.mktemp("study")
    write_text(place / "text", documents=80)
    write(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        with pytest.raises(SystemExit) as ended:
            cli.main(["scale", "my-scale.yaml"])
    assert ended.value.code == 0
    return place


@pytest.fixture
def llama3(folder, monkeypatch, capsys):
    """Runs a command in the folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, args)))
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    return call


def forecast(folder: Path, run: str = "small") -> Artifact:
    return Artifact(folder / "runs" / run / "artifacts" / "forecast")


def test_a_study_is_one_artifact_with_its_table_fits_and_plots(folder):
    made = forecast(folder)
    made.verify()
    assert made.type == "forecast"
    assert {entry.path for entry in made.manifest.files} == {"runs.jsonl", "fits.json", "forecast.html"}
    assert len(made.manifest.parents) == RUNS
    table = [json.loads(line) for line in made.file("runs.jsonl").read_text().splitlines()]
    assert len(table) == RUNS
    for row in table:
        assert row["flops"] == 6 * row["parameters"] * row["tokens"]
        assert row["flops"] == pytest.approx(row["budget"], rel=0.03)
        assert 0 < row["loss"] < 8
        assert 0 <= row["accuracy"] <= 1
        assert (row["items"], row["chance"]) == (40, 0.25)
    fits = read_fits(made)
    assert [row["flops"] for row in fits["budgets"]] == CONFIG["scale"]["budgets"]
    assert {row["status"] for row in fits["budgets"]} <= {"measured", "extrapolated", "no minimum"}
    assert fits["forecast"]["flops"] == 6e9
    page = made.file("forecast.html").read_text()
    assert page.count("<svg") == 4
    assert page.count("<circle") >= 2 * RUNS
    assert not re.search(r"<script|https?://", page)


def test_each_run_was_trained_as_the_table_says(folder):
    table = [json.loads(line) for line in forecast(folder).file("runs.jsonl").read_text().splitlines()]
    for row in table:
        made = Artifact(folder / "runs" / "small" / "artifacts" / row["key"])
        assert made.metrics["parameters"] == row["parameters"]
        assert made.metrics["tokens"] == row["tokens"]
        assert made.metrics["lr"] == pytest.approx(0.1 * row["lr"], rel=0.2), "the cosine ends at a tenth"
    smallest, largest = (pick(table, key=lambda row: row["parameters"]) for pick in (min, max))
    ratio = (largest["parameters"] / smallest["parameters"]) ** 0.12
    assert smallest["lr"] / largest["lr"] == pytest.approx(ratio)


def test_the_same_command_has_nothing_to_do(llama3, folder):
    before = forecast(folder).hash
    code, out, err = llama3("scale", "my-scale.yaml")
    assert code == 0
    assert err.count("nothing to do") == 3 + 2 * RUNS + 1
    assert forecast(folder).hash == before
    assert "FLOPS" in out


def test_a_finished_study_is_shown_by_its_artifact(llama3):
    code, out, err = llama3("scale", "runs/small/artifacts/forecast")
    assert code == 0
    assert len(out.splitlines()) > 6
    assert "▸" not in err
    code, out, _ = llama3("scale", "runs/small/artifacts/forecast", "--json")
    assert {"schema_version", "budgets", "tokens_law", "loss_law", "left_out"} <= json.loads(out).keys()


def test_killed_in_the_middle_it_goes_on_and_makes_the_same_bytes(llama3, folder):
    command = [sys.executable, "-m", "llama3", "scale", "my-scale.yaml", "--set", "run.name=killed"]
    child = started.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    place, deadline = folder / "runs" / "killed", time.monotonic() + 250
    while not list(place.glob("scratch/run-5076-9792-*/checkpoints/step-*/COMMIT")):
        assert child.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.wait()
    code, _, err = llama3("scale", "my-scale.yaml", "--set", "run.name=killed")
    assert code == 0
    assert "▸ run-7408-3328\n" not in err
    assert re.search(r"run-7408-3328\s+nothing to do", err)
    assert re.search(r"run-5076-9792\s+[\d.]+ s", err)
    events = [e for e in read_json_lines(place / "events.jsonl") if e["kind"] == "stage_done"]
    assert len({e["key"] for e in events}) == len(events), "nothing that was finished was done again"
    one, other = forecast(folder), forecast(folder, "killed")
    for entry in one.manifest.files:
        assert one.file(entry.path).read_bytes() == other.file(entry.path).read_bytes(), entry.path
    assert one.manifest.metrics == other.manifest.metrics


def test_trained_models_join_the_second_step(llama3, folder):
    shutil.copytree(folder / "runs" / "small", folder / "runs" / "joined", symlinks=True)
    path = str(folder / "runs" / "small" / "artifacts" / "run-13032-7680")
    code, _, err = llama3("scale", "my-scale.yaml", "--set", "run.name=joined", "--set", f"scale.trained=[{path}]")
    assert code == 0, err
    assert len(re.findall(r"▸ (\S+)", err)) == 2, "the model is measured, and the laws are fitted anew"
    assert len(forecast(folder, "joined").manifest.parents) == RUNS + 1
    assert forecast(folder, "joined").file("forecast.html").read_text().count("trained") > 0


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"scale": None}, 2, "L3-SCL-003"),
        ({"scale__budgets": [1e5, 1e8, 2e8]}, 2, "L3-SCL-001"),
        ({"scale__batches": [400, 1, 1]}, 2, "L3-SCL-002"),
        ({"model": {"path": "runs/small/artifacts/run-3064-8192"}}, 2, "L3-SCL-004"),
        ({"scale__trained": ["no-such-model"]}, 2, "L3-SCL-007"),
        ({"scale__budgets": [3e8, 1e8, 6e8]}, 2, "the budgets must rise"),
        ({"scale__budgets": [3e8, 6e8]}, 2, "budgets"),
        ({"scale__batches": [1, 2]}, 2, "give one each"),
        ({"scale__tokens_per_parameter": [4, 0.2]}, 2, "the fewest must be"),
        ({"scale__benchmark": {"name": "no_such"}}, 4, "no_such"),
        ({"scale__benchmark": {"name": "multiple_choice", "choices": 1}}, 2, "choices"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_studied_is_refused_before_any_work(llama3, folder, changes, code, told):
    config = write(folder, run__name="refused", **changes).rename(folder / "refused.yaml")
    write(folder)
    found, _, err = llama3("scale", config)
    assert found == code, err
    assert told in err
    assert not (folder / "runs" / "refused").exists()


def test_a_model_that_memory_does_not_hold_is_refused(llama3, folder):
    huge = {"scale__budgets": [1e24, 2e24, 4e24], "scale__batches": [1, 1, 1]}
    wide = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "ffn_dim": 14336, "max_seq_len": 64}
    config = write(folder, run__name="refused", model=wide, **huge).rename(folder / "refused.yaml")
    write(folder)
    code, _, err = llama3("scale", config)
    assert code == 3
    assert "L3-MEM-001" in err


def test_all_problems_are_told_at_once(llama3, folder):
    config = write(folder, run__name="refused", scale__budgets=[1e4, 1e5, 1e8], scale__trained=["nowhere"])
    config = config.rename(folder / "refused.yaml")
    write(folder)
    _, _, err = llama3("scale", config)
    assert err.count("L3-SCL-001") == 2
    assert err.count("L3-SCL-007") == 1
    assert f"{config}:" in err, "each with its place in the file"


def test_more_tokens_than_the_corpus_has_are_refused_unless_asked_for(llama3, folder):
    budgets = "scale.budgets=[1.5e8,3.0e8,2.0e9]"
    code, _, err = llama3("scale", "my-scale.yaml", "--set", "run.name=long", "--set", budgets)
    assert code == 1
    assert "L3-SCL-005" in err
    assert "scale.budgets[2]" in err
    assert "run-" not in err, "nothing was trained"


def test_a_suite_without_the_figures_is_told_after_the_first_run(llama3, folder):
    other = 'scale.benchmark={"name": "bits_per_byte"}'
    code, _, err = llama3("scale", "my-scale.yaml", "--set", "run.name=other", "--set", other)
    assert code == 1
    assert "L3-SCL-006" in err
    assert "run-5076" not in err


def test_what_is_no_forecast_is_refused(llama3):
    code, _, err = llama3("scale", "runs/small/artifacts/shard")
    assert code == 1
    assert "L3-ART-007" in err


def test_a_damaged_forecast_is_refused(llama3, folder):
    shutil.copytree(forecast(folder).location, folder / "damaged")
    file = folder / "damaged" / "fits.json"
    file.write_bytes(file.read_bytes().replace(b"1", b"2"))
    code, _, err = llama3("scale", "damaged")
    assert code == 1
    assert "L3-ART-005" in err


def test_the_study_says_what_it_will_do(llama3):
    _, _, err = llama3("scale", "my-scale.yaml", "--set", "pretrain.phases=[{}, {steps: 5}]")
    assert err.count("nothing to do") == 3 + 2 * RUNS + 1, "it is the same study"
    assert re.search(r"note: 10 runs of [\d,]+ to [\d,]+ parameters, \d\.\d+e\+\d+ FLOPs", err)
    assert "pretrain.phases play no part" in err


def test_the_cheapest_size_over_its_life_is_refused_or_told(llama3, folder):
    row = read_fits(forecast(folder))["loss_law"]
    code, out, err = llama3("scale", "runs/small/artifacts/forecast", "--serve-tokens", "1e9", "--gpu", "h100")
    if row["words"]:
        assert (code, "L3-SCL-013" in err) == (2, True)
        return
    assert code == 0
    assert "cheapest over its life" in out
    saved = float(re.search(r"saved: (-?[\d.]+) %", out)[1])
    assert 0 <= saved <= 100
    assert math.isfinite(saved)
    _, planned, _ = llama3("plan", "runs/small/artifacts/forecast", "--serve-tokens", "1e9")
    assert planned
    assert planned in out


def test_a_plan_over_a_life_needs_a_forecast(llama3):
    code, _, err = llama3("plan", "405b", "--serve-tokens", "1e12")
    assert (code, "L3-PLN-014" in err) == (2, True)


def test_a_further_seed_and_a_further_budget_find_what_is_finished(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = load_config(json.loads(json.dumps(CONFIG))).config
    few = {run.key: run for run in runs_of(config, 300)}
    section = config.scale.model_copy(
        update={"budgets": [1e8, *config.scale.budgets], "batches": [1, 2, 3, 6], "seeds": 2}
    )
    runs = runs_of(config.model_copy(update={"scale": section}), 300)
    many = {run.key: run for run in runs}
    assert len(many) == len(runs), "each has a name of its own"
    assert len(few) == RUNS
    assert {key: many[key] for key in few} == few
