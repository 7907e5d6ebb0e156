"""The sections of docs/capabilities.md on tools, long context, languages and steerability: their configs are valid,
their tables are those of the options, and the reasons that they name are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pages import refreshed

from llama3.config import load
from llama3.config.phases import parts_of
from llama3.plugins.registry import discover
from llama3_plugins.capabilities.rules import MAKERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "capabilities.md"
TEXT = PAGE.read_text(encoding="utf-8")
OURS = TEXT[TEXT.index("## Tools\n") : TEXT.index("## Your own\n")]
CONFIGS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", OURS, re.DOTALL | re.M)]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_of_the_page_is_valid(config):
    for slot in load(config).config.post_training.capabilities:
        discover().build("capabilities", slot.name, slot.options)


def test_tables_are_those_of_the_options():
    assert refreshed(OURS) == OURS, f"run: python {Path(__file__).relative_to(ROOT)}"


def test_the_expert_has_nine_tokens_in_ten_of_other_languages():
    (written,) = (config for config in CONFIGS if "mix" in config.get("data", {}))
    config = load(written).config
    assert config.data.mix == {"multilingual": 0.9, "english": 0.1}
    first, branch = parts_of(config.pretrain)
    assert len(first) == 1, "the checkpoint"
    assert [phase.given.final_lr for phase in branch] == [None, 0.0]


def test_reasons_that_the_page_names_are_given():
    code = "".join(path.read_text() for path in (ROOT / "llama3_plugins" / "capabilities").glob("*.py"))
    named = re.findall(r"\(`(\w+_\w+)`\)|says `(\w+)`", OURS)
    reasons = {one or other for one, other in named}
    assert len(reasons) >= 9
    for reason in reasons:
        kind = re.fullmatch(r"breaks_(\w+)_in_turn_\d", reason)
        assert kind[1] in MAKERS if kind else f'"{reason}"' in code, reason


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
