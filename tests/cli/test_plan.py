"""`llama3 plan`: layouts ranked, drawn and explained; a run's phases and memory; and what is refused."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
import yaml

from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.scaling import run_plan
from llama3.testing.toys import toy_tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

# -- a shape ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(llama3):
    """The report of a question."""

    def call(*args):
        code, printed, told = llama3("plan", *args, "--json")
        assert code == 0, told
        return json.loads(printed)

    return call


def test_figures_of_a_layout_belong_together(ask):
    report = ask("8b", "--gpus", "8", "--batch-tokens", "524288", "--price", "2")
    assert (report["model"], report["gpus"], report["batch"]) == ("llama-3.1-8b", 8, 64)
    for layout in report["layouts"]:
        parts = [value for name, value in layout["bytes"].items() if name != "total"]
        assert sum(parts) == pytest.approx(layout["bytes"]["total"])
        assert sum(layout["seconds_by_part"].values()) == pytest.approx(layout["seconds"])
        rate = layout["tokens_per_second_per_gpu"] * 8
        assert rate * layout["seconds"] == pytest.approx(524_288)
        assert layout["days"] * 86_400 * rate == pytest.approx(report["tokens"])
        assert layout["price"] == pytest.approx(layout["days"] * 24 * 8 * 2)


def test_the_pipeline_is_drawn(llama3, tmp_path):
    picture = tmp_path / "schedule.svg"
    asked = ("plan", "8b", "--gpus", "8", "--batch-tokens", "131072", "--layout", "1,1,4,2")
    code, printed, _ = llama3(*asked, "--schedule", str(picture))
    assert code == 0
    assert printed.count("rank ") == 4
    root = ET.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert len(root.findall(".//{*}rect")) > 4 * 2 * 8 / 2


def test_a_layout_is_explained(llama3):
    code, printed, _ = llama3("plan", "405b", "--gpus", "256", "--explain", "16,1,16,1")
    assert code == 0
    assert "L3-PAR-010" in printed
    code, printed, _ = llama3("plan", "405b", "--gpus", "256", "--explain", "8,1,4,8")
    assert code == 0
    assert "L3-PLN-011" in printed
    assert "tp sends" in printed


def test_everything_wrong_is_told_at_once(llama3):
    wrong = (
        "--gpus",
        "-1",
        "--gpu",
        "h10",
        "--seq-len",
        "0",
        "--tokens",
        "nan",
        "--layout",
        "8,1",
        "--strategy",
        "dp=fdsp",
    )
    code, _, told = llama3("plan", "406b", *wrong)
    assert code == 2
    for expected in ("'405b'", "'h100'", "--gpus", "--seq-len", "--tokens", "L3-PLN-007", "'fsdp'"):
        assert expected in told, told
    code, _, told = llama3("plan", "405b", "--gpus", "16", "--layout", "8,1,1,1", "--seq-len", "1000000")
    assert code == 2
    assert "L3-PLN-008" in told
    assert "L3-PLN-003" in told
    code, _, told = llama3("plan", "8b", "--gpus", "8", "--batch-tokens", "100000")
    assert code == 2
    assert "L3-PLN-004" in told


def test_what_fits_nowhere_is_refused_with_figures(llama3):
    code, _, told = llama3("plan", "405b", "--gpus", "8")
    assert code == 3
    assert "L3-PLN-011" in told


def test_a_gpu_without_a_network_joins_no_nodes(llama3, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text("card:\n  memory: 80e9\n  bandwidth: 3e12\n  flops: {bf16: 900e12}\n  link: 900e9\n")
    code, _, told = llama3("plan", "8b", "--gpus", "16", "--gpu", str(card))
    assert code == 2
    assert "`network`" in told


# -- a config or a run -------------------------------------------------------------------------------------------------

TINY = {
    "run": {"threads": 1},
    "model": {"dim": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 64, "max_seq_len": 256},
    "tokenizer": {"vocab_size": 300},
    "pretrain": {
        "batch": 4, "seq_len": 32, "lr": 1e-3, "warmup": 2, "microbatch_tokens": 128,
        "phases": [
            {"steps": 10, "mix": {"python": 1}},
            {"tokens": 1000, "batch": 2, "seq_len": 64},
            {"steps": 5, "schedule": "linear", "final_lr": 0},
        ],
    },
}  # fmt: skip


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(TINY))
    return "my.yaml"


def report(llama3, *args):
    code, printed, told = llama3("plan", *args, "--json")
    assert code == 0, told
    return json.loads(printed)


def test_phases_are_told_in_tokens(llama3, config):
    found = report(llama3, config, "--no-probe")
    phases = found["phases"]
    assert [phase["steps"] for phase in phases] == [10, 8, 5]
    assert [phase["tokens"] for phase in phases] == [10 * 128, 8 * 128, 5 * 128]
    assert found["tokens"] == sum(phase["tokens"] for phase in phases)
    assert phases[0]["mix"] == {"python": 1}
    assert phases[0]["lr_highest"] == pytest.approx(1e-3)
    assert phases[2]["lr_last"] == 0
    assert found["seconds"]["measured"] is None
    assert found["memory"]["fits"]


def test_what_a_given_model_has_behind_it_is_no_part_of_the_plan(llama3, config, tmp_path):
    shape = ModelConfig(32, 2, 2, 1, 64, toy_tokenizer().vocab_size, max_seq_len=256)
    save_checkpoint(tmp_path / "given", PlacedModel(init_weights(Transformer(shape), 0)), toy_tokenizer(), {})
    given = {key: TINY[key] for key in ("run", "pretrain")} | {"model": {"path": "given"}}
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(given))
    phases = [{"steps": 9}, {"steps": 4, "gated": True, "seq_len": 64}, {"steps": 2, "schedule": "linear"}]
    asked = ["given.yaml", "--no-probe"]
    found = report(llama3, *asked, "--set", f"pretrain.phases={json.dumps(phases)}")
    assert [(phase["steps"], phase["seq_len"]) for phase in found["phases"]] == [(4, 64), (2, 64)]
    code, _, told = llama3("plan", *asked, "--set", "pretrain.phases=[{}]")
    assert code == 2
    assert "nothing is pretrained here" in told


def test_a_probe_measures_a_step(llama3, config):
    seconds = report(llama3, config)["seconds"]
    assert seconds["measured_by"] == "probe"
    assert seconds["measured"] > 0
    assert seconds["error"] == pytest.approx(seconds["predicted"] / seconds["measured"] - 1)


def test_a_runs_own_metrics_are_read(llama3, config, tmp_path):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    rows = [{"stage": "pretrain", "step": step, "tokens_per_second": 1280.0} for step in (10, 20)]
    torn = '\n{"stage": "pretr'
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"stage": "sft"}, *rows])) + torn)
    (run / "config.yaml").write_text((tmp_path / config).read_text())
    seconds = report(llama3, "runs/run")["seconds"]
    assert seconds["measured"] == pytest.approx(128 / 1280)
    assert seconds["measured_by"].endswith("metrics.jsonl")
    other = report(llama3, config, "--no-probe", "--set", "run.name=run", "--set", "model.n_layers=3")
    assert other["seconds"]["measured"] is None, "the run of this name trains another model"


def test_ranks_of_the_layout_are_counted(llama3, config):
    found = report(llama3, config, "--set", "parallelism.pp=2", "--set", "parallelism.dp=2")
    assert (found["layout"]["pp"], found["layout"]["dp"]) == (2, 2)
    assert found["layout"]["strategies"] == {"pp": "pipeline", "dp": "fsdp"}
    assert found["memory"]["ranks_here"] == 4
    assert found["seconds"]["measured"] is None, "a probe is of one process"


def test_a_machine_that_is_too_small_says_what_to_change(llama3, config, monkeypatch):
    keeps_all = ("--no-probe", "--set", "parallelism.activation_bytes=1000000000000")
    monkeypatch.setattr(run_plan.RunPlan, "program", 0)
    whole = report(llama3, config, *keeps_all)["bytes"]["total"]
    monkeypatch.setattr(run_plan, "memory_here", lambda: int(whole * 0.9))
    code, printed, told = llama3("plan", config, *keeps_all)
    assert code == 3
    assert "does not hold it" in printed
    assert "L3-PLN-013" in told
    assert "pretrain.microbatch_tokens" in told
    monkeypatch.setattr(run_plan, "memory_here", lambda: 1000)
    code, _, told = llama3("plan", config, *keeps_all)
    assert code == 3
    assert "parallelism.dp: fsdp" in told


def test_a_broken_config_is_refused_as_elsewhere(llama3, config):
    code, _, told = llama3("plan", config, "--set", "pretrain.lr=-1")
    assert code == 2
    assert "pretrain.lr" in told


@pytest.mark.parametrize(
    ("layout", "code"),
    [
        ("parallelism.tp=4", "L3-PAR-010"),
        ("parallelism.pp=32", "L3-PAR-013"),
        ("parallelism.dp={size: 3, replicas: 2}", "L3-PAR-020"),
    ],
)
def test_a_plan_refuses_what_a_run_refuses(llama3, config, layout, code):
    found, _, told = llama3("plan", config, "--no-probe", "--set", layout)
    assert (found, code in told) == (2, True)


def test_what_is_no_question_is_refused_before_work(llama3, tmp_path):
    code, _, told = llama3("plan", "8b", "--batch-tokens", "nan")
    assert (code, "L3-PLN-002" in told) == (2, True)
    mine = tmp_path / "mine.yaml"
    mine.write_text("run: {name: mine}\n")
    code, _, told = llama3("plan", "8b", "--layout", "1,1,1,1", "--schedule", str(mine))
    assert (code, "L3-PLN-019" in told, mine.read_text()) == (2, True, "run: {name: mine}\n"), told
    code, _, told = llama3("plan", "8b", "--schedule", str(tmp_path / "nowhere" / "x.svg"))
    assert (code, "L3-PLN-016" in told) == (2, True)


@pytest.mark.parametrize(
    ("asked", "idle"),
    [
        (["8b", "--set", "pretrain.steps=1", "--no-probe"], ["--no-probe", "--set"]),
        (["8b", "--explain", "refused", "--top", "3", "--layout", "1,1,1,8"], ["--layout", "--top"]),
        (["CONFIG", "--gpus", "8", "--gpu", "h100", "--seq-len", "9", "--top", "10"],
         ["--gpu", "--gpus", "--seq-len", "--top"]),
        (["CONFIG", "--explain", "1,1,1,1", "--schedule", "x.svg"], ["--explain", "--schedule"]),
        (["nowhere", "--serve-tokens", "1", "--price", "2", "--probe"], ["--price", "--probe"]),
    ],
)  # fmt: skip
def test_options_that_would_change_nothing_are_refused_by_name(llama3, config, asked, idle):
    """Given with their default value too: who writes an option expects something of it."""
    code, printed, told = llama3("plan", *(config if word == "CONFIG" else word for word in asked))
    assert (code, printed) == (2, "")
    lines = [line for line in told.splitlines() if "L3-PLN-017" in line]
    assert sorted(line.removeprefix("error: ").partition(":")[0] for line in lines) == idle
    assert all("Fix: leave it out, or" in line for line in lines)


def test_an_idle_option_and_a_wrong_one_are_told_together(llama3, config):
    code, _, told = llama3("plan", "8b", "--no-probe", "--batch-tokens", "nan")
    assert (code, "L3-PLN-017" in told, "L3-PLN-002" in told) == (2, True, True)
    code, _, told = llama3("plan", config, "--gpus", "8", "--set", "pretrain.stepz=1")
    assert (code, "L3-PLN-017" in told, "L3-CFG-010" in told) == (2, True, True)
