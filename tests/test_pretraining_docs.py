"""docs/pretraining.md: its configs are valid, and say what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from llama3.config import load
from llama3.config.phases import phases_of
from llama3.training.schedule import Schedule

TEXT = (Path(__file__).parents[1] / "docs" / "pretraining.md").read_text(encoding="utf-8")
CONFIGS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.M)]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_of_the_page_is_valid(config):
    load(config)


def test_the_ramp_is_one_curve_and_the_anneal_another_that_ends_at_0():
    section = load(CONFIGS[1]).config.pretrain
    schedule, phases = Schedule.of(section), phases_of(section)
    assert [curve.shape for curve in schedule.curves] == ["cosine", "linear"]
    assert schedule.total == sum(phase.steps for phase in phases)
    assert schedule.lr(schedule.total - 1) == 0
    assert [phase.steps for phase in phases] == [489, 489, 245, 31]


def test_the_estimate_prints_what_the_page_says():
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.M)
    (expected,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.M)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    assert printed.getvalue() == expected


def test_the_memory_block_says_what_its_keys_do():
    config = load(CONFIGS[-1]).config
    assert config.parallelism.activation_bytes == 2_000_000_000
    assert config.parallelism.compile == "auto"
    assert config.pretrain.optimizer == "muon"
