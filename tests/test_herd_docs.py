"""docs/herd.md: its config is one, and what it names exists."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from llama3.config.sizes import SizeSection
from llama3.errors import LlamaError
from llama3.preflight import load_config
from llama3.sized import order

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "herd.md").read_text("utf-8")


def test_the_config_of_the_page_is_one():
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    config = load_config(yaml.safe_load(block)).config
    assert order(config) == ["flagship", "medium", "small"]
    assert config.sizes["small"].control


def test_the_preset_is_one_and_asks_enough_tasks():
    loaded = load_config("herd")
    assert order(loaded.config) == ["flagship", "medium", "small"]
    assert loaded.config.evaluation.limit >= 1000
    assert loaded.config.post_training.rounds == 3


def test_the_real_herd_lacks_nothing_but_its_model(tmp_path):
    with pytest.raises(LlamaError) as refused:
        load_config(ROOT / "benchmarks" / "herd_real.yaml", [f"model.path={tmp_path / 'none'}"])
    assert {problem.code for problem in refused.value.problems} == {"L3-CFG-052"}


def test_every_key_of_a_size_is_explained():
    for key in SizeSection.model_fields:
        assert f"`{key}`" in PAGE, key


def test_every_key_of_a_round_that_the_page_names_exists():
    keys = re.findall(r"^\| `(post_training\.[a-z_.]+)`", PAGE, re.M)
    assert keys
    for key in keys:
        with pytest.raises(LlamaError) as refused:
            load_config("quickstart", [f"{key}=[1, 2]"])
        assert {problem.code for problem in refused.value.problems} == {"L3-CFG-011"}, key  # known, of another type


def test_make_herd_runs_the_preset():
    assert "benchmarks/herd.py" in (ROOT / "Makefile").read_text("utf-8")
    source = (ROOT / "benchmarks" / "herd.py").read_text("utf-8")
    assert '"--config", default="herd"' in source
    assert "llama3.run(options.config" in source


def made_up(**changes):
    """The figures of a herd that holds every floor, but for `changes` of steps by their names."""
    sizes = {"big": "dpo", "mid": "grpo", "big-alone": "dpo"}
    names = ("sft", "preference", "averaging", "round")
    lows = {"round": 0.01, "preference": 0.005, "averaging": -0.01, "sft": -0.02, "teacher": 0.02} | changes
    row = lambda size, step: {"suite": "pass_rate", "size": size, "round": 1, "step": step, "change": lows[step] + 0.02,
                              "low": lows[step], "high": lows[step] + 0.04}  # fmt: skip
    return {
        "sizes": {
            name: {"algorithm": algorithm, "teacher": "mid" if name == "big" else None}
            for name, algorithm in sizes.items()
        },
        "rounds": [{"suite": "pass_rate", "figure": {"n": 1000}}],
        "steps": [row(size, step) for size in sizes for step in names] + [row("big", "teacher")],
    }


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"round": -0.01}, ["big: every round is above the one before", "mid: every round is above the one before"]),
        ({"preference": 0}, ["dpo: adds something in a round", "grpo or ppo: adds something in a round"]),
        ({"averaging": -0.05}, ["averaging never loses"]),
        ({"teacher": -0.001}, ["a teacher is worth more than none"]),
    ],
)
def test_make_herd_names_the_floors_that_are_missed(bench, change, missed):
    assert [name for name, holds, _ in bench.floors(made_up(**change)) if not holds] == missed


def test_make_herd_tells_changes_in_points(bench):
    found = {name: told for name, _, told in bench.floors(made_up())}
    assert found["a teacher is worth more than none"] == "big 1: +4.0 pt [+2.0, +6.0]"


def test_a_herd_is_not_asked_for_a_step_that_it_does_not_have(bench):
    herd = made_up()
    herd["sizes"] = {"big": {"algorithm": "dpo", "teacher": None}}
    herd["steps"] = [row for row in herd["steps"] if row["step"] != "teacher"]
    asked = [name for name, _, _ in bench.floors(herd)]
    assert not any("teacher" in name or "grpo" in name for name in asked)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("bench_herd", ROOT / "benchmarks" / "herd.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    return bench
