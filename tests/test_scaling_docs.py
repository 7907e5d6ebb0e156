"""docs/scaling-laws.md is followed from top to bottom in a folder with `notes`. A study trains: any number stands for
any other. What the preset `scale` found is shown as text with its command: it takes minutes, and machines differ.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import Page
from test_recipe import write_text

from llama3.preflight import load_config
from llama3.scaling.runs import runs_of

PAGE = Page("scaling-laws.md", measures="^llama3 scale")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"), documents=80)
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_every_block_is_executed_or_is_the_outcome_of_the_preset():
    assert {language for language, _ in PAGE.all_blocks} == {"console", "python", "yaml", "text"}
    (shown,) = PAGE.blocks("text")
    assert shown.startswith("$ llama3 scale scale")


def test_the_preset_is_what_the_page_says():
    runs = runs_of(load_config("scale").config, 512)
    sizes = [run.parameters for run in runs]
    budgets = sorted({run.budget for run in runs})
    assert (len(runs), min(sizes) // 1000, max(sizes) // 1000) == (12, 4, 58)
    assert (len(budgets), budgets[0], budgets[-1]) == (3, 3e9, 3e10)
    assert f"{sum(run.flops for run in runs):.0e}" == "2e+11"
