"""docs/pretraining.md: its configs are valid, and say what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import yaml

from llama3.cli import main
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


def test_the_recipe_of_405b_is_the_table_of_the_page(capsys):
    (command,) = re.findall(r"^```bash\n(.*?)\n```", TEXT, re.DOTALL | re.M)
    with pytest.raises(SystemExit) as done:
        main(shlex.split(command)[1:])
    assert not done.value.code
    assert "llama3-405b.yaml: ok" in capsys.readouterr().err
    phases = phases_of(load("llama3-405b").config.pretrain)
    told = [row.split("|")[2] for row in TEXT.splitlines() if re.match(r"\| [\d.]+[MBT] \|", row)]
    plain = [phase for phase in phases if not phase.given.gated]
    rows = [tuple(int(n.replace(",", "")) for n in re.findall(r"[\d,]{3,}", cell)) for cell in told]
    assert [(phase.batch, phase.seq_len) for phase in plain] == [rows[0], rows[1], rows[2], rows[4]]
    stages = [phase for phase in phases if phase.given.gated]
    assert (stages[0].seq_len, stages[-1].seq_len) == rows[3]
    read = [0, *(sum(p.steps * p.batch * p.seq_len for p in phases[: i + 1]) for i in range(len(phases)))]
    assert read[1] == pytest.approx(252e6, rel=0.02)
    assert read[2] == pytest.approx(2.87e12, rel=1e-3)
    assert sum(p.steps * p.batch * p.seq_len for p in stages) == pytest.approx(800e9, rel=1e-3)
    assert all(14e6 < p.batch * p.seq_len < 17e6 for p in phases[2:])
    schedule = Schedule.of(load("llama3-405b").config.pretrain)
    assert schedule.lr(7999) == 8e-5
    assert schedule.lr(phases[3].first_step - 1) == pytest.approx(8e-7)
    assert schedule.lr(schedule.total - 1) == 0.0


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
