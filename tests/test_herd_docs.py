"""docs/herd.md: its config is one, and what it names exists."""

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
    assert 'llama3.run("herd"' in (ROOT / "benchmarks" / "herd.py").read_text("utf-8")
