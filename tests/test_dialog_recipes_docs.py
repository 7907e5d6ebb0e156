"""The sections of docs/capabilities.md on tools, long context, languages and steerability: the expert is what they
say, and the reasons that they name are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pages import Page

from llama3.config import load
from llama3.config.phases import parts_of
from llama3_plugins.capabilities.rules import MAKERS

ROOT = Path(__file__).parents[1]
PAGE = Page("capabilities.md")
OURS = PAGE.text[PAGE.text.index("### Dialogs\n") : PAGE.text.index("## Your own\n")]


def test_the_expert_has_nine_tokens_in_ten_of_other_languages():
    (block,) = (block for block in PAGE.blocks("yaml") if block.startswith("# expert.yaml"))
    written = yaml.safe_load(block)
    assert written["data"]["mix"] == {"multilingual": 0.9, "english": 0.1}
    first, branch = parts_of(load({"pretrain": written["pretrain"]}).config.pretrain)
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
