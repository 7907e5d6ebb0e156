"""docs/planning.md is followed from top to bottom in a folder of its own. What is predicted of GPUs is compared to the
digit; where a command measures this machine, any number stands for any other. The tables of the page are those that its
commands print, and the paper's rows are computed here.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import pytest
from pages import ROOT, Page, commands

PAGE = Page("planning.md", measures="my.yaml", skips=("python ", "make "), read_yaml=Path("my.yaml").write_text)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert command.matches(printed, 0 if command.measures else code), f"exit code {code}, printed:\n{printed}"


def test_other_commands_exist():
    lines = [command.line for block in PAGE.blocks("console") for command in commands(block)]
    others = [line for line in lines if line.startswith(PAGE.skips)]
    assert others == ['python -m pytest tests/scaling/test_planner.py -m "" -k needs_what -s', "make bench-planner"]
    assert "bench-planner:" in (ROOT / "Makefile").read_text()


@cache
def benchmark():
    """benchmarks/planner.py, which is no package."""
    spec = importlib.util.spec_from_file_location("planner_benchmark", ROOT / "benchmarks" / "planner.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_benchmark_says_what_the_page_shows(capsys):
    benchmark().main([])
    printed = capsys.readouterr().out.strip()
    shown, *_ = PAGE.blocks("text")
    assert printed == shown.strip()
