"""docs/plugins.md is followed from top to bottom: files are written as shown, commands run and their output compared.

A file is a block whose first line is a comment with its path. `$ pip install -e FOLDER` puts the folder on the path
with its entry points: no network is needed. All other commands are what they say.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest

from llama3 import errors
from llama3.plugins.registry import discover
from llama3.scaffold.package import new_package

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")
INCLUDED = re.compile(r"(<!-- file: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
OWN = INCLUDED.sub("", TEXT)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", OWN, re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+)\n")


def steps() -> Iterator[tuple[str, str] | pages.Command]:
    """What the page has one do, in order: a file as (path, content), or a command."""
    for language, block in BLOCKS:
        if language == "console":
            yield from pages.commands(block)
        elif language != "text":
            named = FILE.match(block)
            assert named, f"a block of {language} that is no file:\n{block}"
            yield named[1], block if language == "yaml" else block[named.end() :]


pytestmark = pytest.mark.timeout(900)  # the page is one walk: its first test waits for all of it
STEPS = list(steps())
COMMANDS = [step for step in STEPS if isinstance(step, pages.Command)]


def refreshed(text: str) -> str:
    """The page with the files that it includes as they are."""
    show = lambda path: f"```python\n{(ROOT / path).read_text(encoding='utf-8')}```\n"
    return INCLUDED.sub(lambda found: found[1] + show(found[2]) + found[4], text)


def test_included_files_are_up_to_date():
    assert INCLUDED.search(TEXT)
    assert refreshed(TEXT) == TEXT, "run: python tests/test_plugins_docs.py"


def test_blocks_are_files_or_commands():
    assert {language for language, _ in BLOCKS} == {"console", "python", "text", "toml", "yaml"}
    for step in STEPS:
        if isinstance(step, tuple) and step[0].endswith(".py"):
            ast.parse(step[1])


def write_entry_points(package: Path, site: Path) -> None:
    """What an editable installation leaves in `site` of a package beside its path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["llama3.plugins"].items()
    lines = "".join(f"{name} = {target}\n" for name, target in entries)
    (info / "entry_points.txt").write_text(f"[llama3.plugins]\n{lines}")


class Reader:
    """Follows the page in a folder."""

    def __init__(self, site: Path, patch: pytest.MonkeyPatch) -> None:
        self.site, self.patch, self.code = site, patch, 0
        patch.syspath_prepend(str(site))

    def do(self, line: str) -> tuple[str, int]:
        """What a command prints, and its exit code."""
        self._forget()
        printed, self.code = self._call(line)
        return printed, self.code

    def _call(self, line: str) -> tuple[str, int]:
        if line.startswith("pip install -e "):
            self._install(Path(line.removeprefix("pip install -e ")))
            return "", 0
        if line.startswith("ls "):
            return "".join(f"{name}\n" for name in sorted(os.listdir(line.removeprefix("ls ")))), 0
        if line.startswith("pip wheel "):
            offline = ["--no-build-isolation", "--no-index"]  # what it would fetch is here
            return self._python("-m", "pip", *shlex.split(line)[1:], *offline)
        if line.startswith("python "):
            return self._python(*shlex.split(line)[1:])
        return pages.call(line, self.code)

    def _install(self, folder: Path) -> None:
        """What an editable installation does: the folder's modules are importable, its entry points known."""
        write_entry_points(folder, self.site)
        self.patch.syspath_prepend(str(folder.resolve()))
        self._forget()

    def _forget(self) -> None:
        """A command is a new process: it finds modules as they are now."""
        importlib.invalidate_caches()
        discover.cache_clear()
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(os.getcwd()):
                del sys.modules[name]

    def _python(self, *arguments: str) -> tuple[str, int]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        return done.stdout + done.stderr, done.returncode


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Every command with what it printed and its exit code."""
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        reader = Reader(tmp_path_factory.mktemp("site"), patch)
        for step in STEPS:
            if isinstance(step, pages.Command):
                results.append((step, *reader.do(step.line)))
            else:
                Path(step[0]).parent.mkdir(parents=True, exist_ok=True)
                Path(step[0]).write_text(step[1])
    discover.cache_clear()
    return results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    if command.shown.strip() == "...":
        followed = COMMANDS[number + 1].line if number + 1 < len(COMMANDS) else ""
        assert code == 0 or followed == "echo $?", f"exit code {code}, printed:\n{printed}"
    else:
        assert command.matches(printed, code), f"exit code {code}, printed:\n{printed}"


def test_files_are_shown_as_they_are_written(tmp_path):
    """The first look at a new package is the package; so is what nobody changes later."""
    new_package("brief", "rewards", tmp_path)
    shown = dict(step for step in STEPS if isinstance(step, tuple))
    assert shown["llama3-brief/pyproject.toml"] == (tmp_path / "llama3-brief" / "pyproject.toml").read_text()


def test_names_of_the_page_exist():
    for module, name in re.findall(r"`(llama3\.[a-z_.]+)\.([A-Z]\w+)`", TEXT):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
    for target in re.findall(r"\]\((?:hooks\.md)#(\w+)\)", TEXT):
        assert f"### `{target}`" in (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")


def test_classes_of_errors_have_the_exit_codes_of_the_page():
    told = re.findall(r"\b(\w+Error|DoesNotFit|GateFailed) (\d)\b", TEXT)
    assert len(told) == 5
    assert told == [(name, str(getattr(errors, name).exit_code)) for name, _ in told]


if __name__ == "__main__":
    PAGE.write_text(refreshed(TEXT), encoding="utf-8")
