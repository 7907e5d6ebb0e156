"""docs/export.md: what it shows is what happens, section by section, on a small model.

A section begins with the name of its exporter in a comment; its console and Python blocks run in their order, in one
folder. Any number stands for any other; a line `...` of shown output stands for any lines.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from exporting import write_checkpoint
from pages import DOCS, Command, call, commands

from llama3.errors import PluginError
from llama3.plugins.registry import discover

PAGE = DOCS / "export.md"
TEXT = PAGE.read_text(encoding="utf-8")
_, *PARTS = re.split(r"^<!-- (\w+) -->$", TEXT, flags=re.MULTILINE)
SECTIONS = dict(zip(PARTS[::2], PARTS[1::2], strict=True))
SLOW = {"aoti"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with my-model."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("my-model"))


def test_every_exporter_that_runs_here_has_its_section():
    assert set(SECTIONS) == set(discover().names("exporters")) - {"tensorrt"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(1800)] * (name in SLOW)) for name in SECTIONS],
)
def test_a_section_does_what_it_shows(folder, name):
    try:
        discover().offer("exporters", name)
    except PluginError as error:
        pytest.skip(str(error))
    code = 0
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", SECTIONS[name], re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, str(PAGE), "exec"), {})
            continue
        assert language == "console"
        for command in commands(block):
            printed, code = call(command.line, code)
            shown = Command(command.line, command.shown, measures=True)  # every machine rounds in its own way
            assert shown.matches(printed, code), f"exit code {code}, printed:\n{printed}"
