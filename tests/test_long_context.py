"""Long-context stages on the whole road: gates that hold a model back, that it goes on, and what the report shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llama3.artifacts.run import RunDir
from llama3.checkpoints.load import read_config
from llama3.cli import main
from llama3.errors import ConfigError, GateFailed
from llama3.plugins.registry import discover

ANYTHING = """
from llama3.evaluators import Result
from llama3.plugins import EvaluatorSpec, hookimpl


@hookimpl
def llama3_evaluators():
    return [EvaluatorSpec(name="anything", factory="anything:Anything")]


class Anything:
    def run(self, subject, limit, seed):
        length = subject.model.config.max_seq_len
        return Result({"share": 1.0}, [{"id": str(n), "length": length, "score": 1.0} for n in range(60)])
"""
"""A third party's evaluator that every model passes."""


@pytest.fixture(scope="module", autouse=True)
def lenient(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    (site / "anything.py").write_text(ANYTHING)
    info = site / "anything-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anything\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llama3.plugins]\nanything = anything\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield
    discover.cache_clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("long")


def run(config: Path, *sets: str) -> int:
    """The exit code of `llama3 run`."""
    with pytest.raises(SystemExit) as stopped:
        main(["run", str(config), *(word for change in sets for word in ("--set", change))])
    return int(stopped.value.code or 0)


def write_config(home: Path, name: str, gate: dict, **changes) -> Path:
    """The preset on a model of a few kilobytes that is stretched from 32 to 128 tokens in two stages."""
    config = {
        "extends": "long-context",
        "run": {"name": name, "dir": str(home / "runs"), "threads": 1, "device": "cpu"},
        "data": {"sources": [{"name": "recall", "documents": 80, "lines": 6, "words": 3, "digits": 1}],
                 "held_out": 0.3},
        "tokenizer": {"vocab_size": 330, "num_special": 16},
        "model": {"preset": "tiny", "dim": 16, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "ffn_dim": 16,
                  "max_seq_len": 64},
        "pretrain": {
            "steps": 2, "batch": 4, "seq_len": 64, "warmup": 1, "precision": "fp32", "log_every": 1,
            "phases": [{}, {"steps": 2, "extend": {"to": 128, "stages": 2}},
                       {"steps": 2, "schedule": "linear", "final_lr": 0, "average_last": 2}],
            "gate": gate,
        },
        "post_training": {"rewards": []},
        "evaluation": {"tasks": ["bits_per_byte"]},
        "audit": {"relative_margin": 0.5},
        "logging": ["jsonl"],
        **changes,
    }  # fmt: skip
    path = home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


NEEDLE = {"name": "needle", "digits": 1, "depths": 3, "steps": 1, "sentence": "{key} {value}"}


@pytest.fixture(scope="module")
def held_back(home):
    """A run that did not pass the gate of its first stage, after two rounds."""
    code = run(write_config(home, "held-back", {"rounds": 2, "tasks": [NEEDLE]}))
    return code, home / "runs" / "held-back"


def test_a_model_that_finds_nothing_is_held_back(held_back):
    code, folder = held_back
    assert code == GateFailed.exit_code
    made = RunDir(folder).current()
    assert {key for key in made if key.startswith("extend")} == {"extend-1-1", "extend-1-2"}
    assert read_config(made["extend-1-2"].path).max_seq_len == 96
    assert "release" not in made
    report = json.loads((folder / "report.json").read_text())
    assert report["heat_maps"]["gate-extend-1-2: needle"]["shares"] == [[0.0] * 3]
    page = (folder / "report.html").read_text()
    assert "gate-extend-1-2: needle (0 of 3 right)" in page
    assert 'class="cell c1"' in page
    assert "Failed: a long-context stage was not passed; not released" in page
    assert "extend-1-2: context of 96 tokens: suite needle: 3 of 3 items are wrong" in report["verdict"]["lines"][0]


def test_a_mix_of_what_was_filtered_away_is_refused_before_the_base_is_trained(home, capsys):
    """Not when its phase comes, which is weeks later."""
    (home / "junk").mkdir()
    (home / "junk" / "a.txt").write_text("too short\n")
    made = {"name": "recall", "documents": 80, "lines": 6}
    sources = [made, {"name": "files", "path": str(home / "junk"), "source": "junk"}]
    data = {"sources": sources, "held_out": 0.3}
    phases = [{}, {"steps": 2, "extend": {"to": 128, "stages": 2}, "mix": {"junk": 0.5, "recall": 0.5}}]
    config = write_config(home, "filtered", {"tasks": [NEEDLE]}, data=data)
    assert run(config, f"pretrain.phases={json.dumps(phases)}") == ConfigError.exit_code
    assert "pretrain.phases.1.mix: no source is called 'junk'" in capsys.readouterr().err
    assert set(RunDir(home / "runs" / "filtered").current()) == {"curate", "tokenizer", "shard"}


def test_the_error_names_the_stage_its_context_and_the_score(home, held_back, capsys):
    assert run(home / "held-back.yaml") == GateFailed.exit_code
    said = capsys.readouterr()
    assert "extend-1-2: context of 96 tokens: the model does not find everything" in said.err
    assert "suite needle: 3 of 3 items are wrong" in said.err
    assert "L3-CTX-011" in said.err
    done = [json.loads(line) for line in (held_back[1] / "events.jsonl").read_text().splitlines()]
    trained = [row["key"] for row in done if row["kind"] == "stage_done" and row["key"].startswith("extend")]
    assert trained == ["extend-1-1", "extend-1-2"], "the second command trained nothing again"


def test_a_wider_gate_lets_the_same_run_go_on_to_the_end(home, held_back):
    """Nothing that was trained is trained again; the anneal ends at a rate of 0 with the mean of its checkpoints."""
    _, folder = held_back
    before = RunDir(folder).current()
    assert run(write_config(home, "held-back", {"rounds": 2, "tasks": ["anything"]})) == 0
    made = RunDir(folder).current()
    assert made["extend-1-1"].hash == before["extend-1-1"].hash
    assert {key for key in made if key[:6] in ("extend", "anneal")} >= {"extend-1-1", "extend-2-1", "anneal"}
    found = read_config(made["release"].path)
    assert (found.max_seq_len, found.rope_scaling.factor, found.rope_scaling.original_max_position) == (128, 2.0, 64)
    assert made["anneal"].metrics["lr"] == 0.0
    assert made["anneal"].metrics["tokens"] == 2 * 2 * 128
    (row,) = [parent for parent in made["anneal"].manifest.parents if parent.role == "checkpoint"]
    assert row.hash == made["extend-2-1"].hash


def test_short_context_scores_that_are_lost_hold_a_model_back(home, capsys):
    """A rate that destroys the model: what it could do in short contexts does not come back."""
    config = write_config(home, "lost", {"rounds": 1, "tasks": ["anything"]}, audit={"relative_margin": 0.01})
    stage = "{steps: 8, lr: 1.0, extend: {to: 128, stages: 1}}"
    assert run(config, f"pretrain.phases=[{{}}, {stage}]") == GateFailed.exit_code
    said = capsys.readouterr().err
    assert "extend-1-1: context of 128 tokens: the short-context scores have not recovered" in said
    assert "suite bits_per_byte: a loss of more than the margin of 1.0 % is not excluded" in said


def test_a_released_model_is_extended_and_its_own_pretraining_is_not_done_again(home, held_back):
    base = RunDir(held_back[1]).current()["pretrain"]
    gate = {"rounds": 1, "tasks": ["anything"]}
    config = write_config(home, "adopted", gate, model={"path": str(base.path)}, tokenizer={})
    assert run(config, "audit.relative_margin=0.9") == 0
    made = RunDir(home / "runs" / "adopted").current()
    assert "pretrain" not in made
    (role,) = [parent for parent in made["shard"].manifest.parents if parent.role == "tokenizer"]
    assert role.hash == made["adopt"].hash
    assert read_config(made["release"].path).max_seq_len == 128
    assert made["audit"].metrics["passed"] is True


def test_suites_without_room_are_refused_before_any_work(home, capsys):
    """One that is longer than the context before the stages, and a gate that asks at less than its stage's length."""
    far, gated = ({**NEEDLE, "suite": suite, "lengths": [100]} for suite in ("far", "gate"))
    gate = {"tasks": [NEEDLE, gated]}
    config = write_config(home, "no-room", gate, evaluation={"tasks": ["bits_per_byte", far]})
    for command in ("config", "validate"), ("run",):
        with pytest.raises(SystemExit) as stopped:
            main([*command, str(config)])
        told = capsys.readouterr().err
        assert stopped.value.code == 2
        assert "evaluation.tasks.1: the suite 'far' has no room in a context of 64 tokens, that before" in told
        assert "pretrain.gate.tasks.1: the suite 'gate' asks at most at 0 tokens, the stage goes to 96" in told
        assert len(told.splitlines()) == 2
    assert not (home / "runs" / "no-room").exists()
    assert run(config, "pretrain.phases=[{}]", "evaluation.tasks.1.lengths=[65]") == 2, (
        "without stages: the model's own"
    )
    assert "no room in a context of 64 tokens, that of the model in the end" in capsys.readouterr().err


def test_the_preset_of_a_smaller_model_is_refused_with_the_suites_that_it_inherits(capsys):
    sizes = ["model.max_seq_len=512", "pretrain.seq_len=512", "pretrain.phases.1.extend={to: 4096}"]
    assert run(Path("long-context"), *sizes) == 2
    told = capsys.readouterr().err
    assert "evaluation.tasks.1: the suite 'four_needles' has no room in a context of 512 tokens" in told
    assert "L3-CTX-005" in told


def test_an_adopted_models_context_is_asked_of_the_model(home, held_back, capsys):
    """A validation, which loads nothing, tells what is wrong with any model; a run what is wrong with this one."""
    base = RunDir(held_back[1]).current()["pretrain"]
    far = {**NEEDLE, "suite": "far", "lengths": [80]}
    changes = {"model": {"path": str(base.path)}, "tokenizer": {}, "evaluation": {"tasks": ["bits_per_byte", far]}}
    config = write_config(home, "adopted-far", {}, **changes)
    assert run(config, "pretrain.phases=[{}]") == 2
    assert "no room in a context of 64 tokens, that of the model in model.path" in capsys.readouterr().err
    assert not (home / "runs" / "adopted-far").exists()
