"""docs/planning.md is followed from top to bottom in a folder of its own. What is predicted of GPUs is compared to the
digit; where a command measures this machine, any number stands for any other. The tables of the page are those that its
commands print, and the paper's rows are computed here.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import test_post_training_docs as page

PAGE = page.ROOT / "docs" / "planning.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Planned(page.Command):
    """A command of this page."""

    @property
    def trains(self) -> bool:
        return "my.yaml" in self.line


COMMANDS = [
    Planned(command.line, command.shown)
    for language, block in BLOCKS
    if language == "console"
    for command in page.commands(block)
    if command.line.startswith(("llama3 ", "echo "))
]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> list[tuple[Planned, str, int]]:
    """Every command of the page with what it printed and its exit code."""
    results: list[tuple[Planned, str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        commands = iter(COMMANDS)
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), {})
            elif language == "yaml":
                Path("my.yaml").write_text(block)
            elif language == "console":
                for found in page.commands(block):
                    if found.line.startswith(("llama3 ", "echo ")):
                        results.append((next(commands), *page.call(found.line, results[-1][2] if results else 0)))
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert page.matches(command, printed, 0 if command.trains else code), f"exit code {code}, printed:\n{printed}"


def test_other_commands_exist():
    others = [c.line for _, block in BLOCKS for c in page.commands(block) if not c.line.startswith(("llama3", "echo"))]
    assert others == ['python -m pytest tests/scaling/test_planner.py -m "" -k needs_what -s', "make bench-planner"]
    assert "bench-planner:" in (page.ROOT / "Makefile").read_text()


@cache
def benchmark():
    """benchmarks/planner.py, which is no package."""
    spec = importlib.util.spec_from_file_location("planner_benchmark", page.ROOT / "benchmarks" / "planner.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_benchmark_says_what_the_page_shows(capsys):
    benchmark().main([])
    printed = capsys.readouterr().out.strip()
    shown = next(block for language, block in BLOCKS if language == "text")
    assert printed == shown.strip()
