"""docs/reliability.md: its commands and config are valid, and its tables are those of the tests and of the command."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import typer
import yaml

from llama3.cli.app import app
from llama3.config import load
from llama3.errors import DECLARED
from llama3.training.causes import CAUSES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.M)


def test_the_commands_are_commands():
    commands = typer.main.get_command(app)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        start = words.index("llama3") + 1
        command = commands.get_command(None, words[start])
        command.make_context(words[start], words[start + 1 :])
    assert "--max-restarts" in lines[2]


def test_the_config_is_valid_and_its_defaults_are_told():
    (given,) = map(yaml.safe_load, blocks("yaml"))
    section, plain = load(given, environ={}).config, load({}, environ={}).config
    assert section.pretrain.spike == 10
    assert plain.pretrain.spike is None
    assert section.reliability == plain.reliability


def test_every_fault_of_the_tests_is_told():
    told = set()
    for first, last in re.findall(r"^\| T(\d+)(?:-T(\d+))? ", TEXT, re.M):
        told |= set(range(int(first), int(last or first) + 1))
    tree = ast.parse((ROOT / "tests" / "training" / "test_faults.py").read_text("utf-8"))
    (faults,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FAULTS")
    assert [f"T{number}" for number in sorted(told)] == [name.split()[0] for name in ast.literal_eval(faults)]


def test_the_codes_exist():
    import llama3.artifacts.lock
    import llama3.cli.restarts
    import llama3.data.loader
    import llama3.training.loop  # noqa: F401

    assert set(re.findall(r"L3-[A-Z]+-\d+", TEXT)) <= set(DECLARED)


def test_the_drill_is_told_as_the_command_tells_it():
    (told,) = blocks("text")
    assert "`make drill` strikes a run with 60 random faults" in TEXT
    share = float(re.search(r"^effective training time +([\d.]+)%$", told, re.M)[1])
    assert share > 90
    useful, elapsed = map(float, re.search(r"^useful of elapsed +([\d.]+) s of ([\d.]+) s$", told, re.M).groups())
    assert abs(share - 100 * useful / elapsed) < 0.06
    rows = re.findall(r"^(\S.*?)  +(\S.*?)  +(\d+)  +[\d.]+%  +[\d.]+", told, re.M)
    assert sum(int(count) for _, _, count in rows) == int(re.search(r"^interruptions +(\d+) ", told, re.M)[1])
    categories = {cause.name: cause.category for cause in CAUSES.values()}
    assert all(categories[cause] == category for cause, category, _ in rows)
    assert "as planned, each once" in told
