"""The README's plugin works as printed, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llama3.plugins.registry import discover

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(start: str) -> str:
    """The fenced block whose first line contains `start`."""
    return next(text for text in re.findall(r"```\w+\n(.*?)```", README, re.DOTALL) if start in text.split("\n")[0])


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """The README's plugin, installed."""
    (tmp_path / "llama3_acme.py").write_text(block("# llama3_acme.py"))
    (tmp_path / "llama3_acme-0.1.dist-info").mkdir()
    (tmp_path / "llama3_acme-0.1.dist-info" / "METADATA").write_text("Name: llama3-acme\nVersion: 0.1\n")
    entry = re.search(r"\[project\.entry-points\.\"(.*?)\"\]\n(\w+) = \"(\w+)\"", README)
    lines = f"[{entry[1]}]\n{entry[2]} = {entry[3]}\n"
    (tmp_path / "llama3_acme-0.1.dist-info" / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    discover.cache_clear()
    yield
    discover.cache_clear()


def test_the_plugin_is_found_and_scores(acme):
    row = next(row for row in discover().list("rewards") if row.name == "brief")
    assert (row.dist, row.version, row.status) == ("llama3-acme", "0.1", "ok")
    assert discover().build("rewards", "brief").score(["p", "p"], ["", "abc"], [{}, {}]) == [1.0, 0.25]


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"^\$ llama3 (\w+(?: (?:list|explain))?)", README, re.MULTILINE)))
)
def test_every_command_of_the_readme_exists(command):
    done = subprocess.run(
        [sys.executable, "-m", "llama3", *command.split(), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
