"""docs/scaling-laws.md is followed from top to bottom in a folder with `notes`. A study trains: any number stands for
any other. What the preset `scale` found is shown as text with its command: it takes minutes, and machines differ.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import test_post_training_docs as page
from test_recipe import write_text

from llama3.preflight import load_config
from llama3.scaling.runs import runs_of

PAGE = page.ROOT / "docs" / "scaling-laws.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


class Asked(page.Command):
    """A command of this page."""

    @property
    def trains(self) -> bool:
        return self.line.startswith("llama3 scale")


COMMANDS = [
    Asked(command.line, command.shown)
    for language, block in BLOCKS
    if language == "console"
    for command in page.commands(block)
    if not command.line.startswith("cat ")
]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[Asked, str, int]]:
    """Every command of the page with what it printed and its exit code."""
    results: list[tuple[Asked, str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"), documents=80)
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), {})
            elif language == "yaml":
                Path(re.match(r"# (\S+)\n", block)[1]).write_text(block)
            elif language == "console":
                for command in page.commands(block):
                    if command.line.startswith("cat "):
                        Path(command.line.removeprefix("cat ")).write_text(command.shown)
                    else:
                        last = results[-1][2] if results else 0
                        results.append((Asked(command.line, command.shown), *page.call(command.line, last)))
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


def test_every_block_is_executed_or_is_the_outcome_of_the_preset():
    assert {language for language, _ in BLOCKS} == {"console", "python", "yaml", "text"}
    (shown,) = [block for language, block in BLOCKS if language == "text"]
    assert shown.startswith("$ llama3 scale scale")


def test_the_preset_is_what_the_page_says():
    runs = runs_of(load_config("scale").config, 512)
    sizes = [run.parameters for run in runs]
    budgets = sorted({run.budget for run in runs})
    assert (len(runs), min(sizes) // 1000, max(sizes) // 1000) == (12, 4, 58)
    assert (len(budgets), budgets[0], budgets[-1]) == (3, 3e9, 3e10)
    assert f"{sum(run.flops for run in runs):.0e}" == "2e+11"
