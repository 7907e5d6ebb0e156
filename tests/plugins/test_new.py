"""`llama3 plugins new`: for every family a package that passes `llama3 plugins check` as it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from installing import ROOT, lay

from llama3.cli import main
from llama3.errors import ConfigError
from llama3.plugins.registry import FAMILIES, discover
from llama3.scaffold.package import new_package

PACKAGE_FILES = {"pyproject.toml", "README.md", "tests/test_plugin.py"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of every family, and a folder in which all of them are installed."""
    parent, site = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("site")
    for family in FAMILIES:
        new_package(f"my-{family}", family, parent)
        lay(parent / f"llama3-my-{family.replace('_', '-')}", site)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        discover.cache_clear()
        yield parent, site
    discover.cache_clear()


def python(site: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False, **options
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("packages")
def test_a_new_package_passes_the_check(family, capsys):
    with pytest.raises(SystemExit) as left:
        main(["plugins", "check", f"{family}/my-{family}", "--json"])
    printed = capsys.readouterr()
    assert left.value.code == 0, printed.out + printed.err
    (rows,) = json.loads(printed.out)["plugins"].values()
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) > 5


def test_what_is_written_is_in_good_order(packages):
    parent, site = packages
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,W,B,UP", parent],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named ruff" not in done.stderr:
        assert done.returncode == 0, done.stdout
    for folder in parent.iterdir():
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert names >= PACKAGE_FILES
        assert not any("$" in path.read_text() for path in folder.rglob("*.py"))
        project = tomllib.loads((folder / "pyproject.toml").read_text())
        for package in project["tool"]["setuptools"]["packages"]:
            assert (site / package.replace(".", "/") / "__init__.py").is_file()


def test_its_own_test_file_runs_the_kit(packages):
    parent, site = packages
    for family in ("loggers", "rewards"):
        file = parent / f"llama3-my-{family}" / "tests" / "test_plugin.py"
        done = python(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(file.parent), str(file))
        assert done.returncode == 0, done.stdout
        assert "passed" in done.stdout


@pytest.mark.parametrize("name", ["acme", "ulysses"])
def test_an_example_package_passes_its_own_tests(tmp_path, name):
    package = ROOT / "examples" / f"llama3-{name}"
    lay(package, tmp_path)
    file = package / "tests" / f"test_{name}.py"
    done = python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(file.parent), str(file))
    assert done.returncode == 0, done.stdout
    assert "llama3.testing" in file.read_text()


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["plugins", "new", "brief", "--family", "rewards", "--out", str(tmp_path)])
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert (tmp_path / "llama3-brief" / "llama3_brief" / "reward.py").as_posix() in printed.out
    assert "pip install -e" in printed.err
    assert "llama3 plugins check brief" in printed.err


def test_nothing_is_overwritten_and_names_are_checked(tmp_path):
    new_package("brief", "rewards", tmp_path)
    mine = tmp_path / "llama3-brief" / "llama3_brief" / "reward.py"
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="already"):
        new_package("brief", "guards", tmp_path)
    assert mine.read_text() == "mine"
    with pytest.raises(ConfigError, match="did you mean 'rewards'"):
        new_package("other", "reward", tmp_path)
    for name in ("../x", "Brief", "", "1st", "a b", "a/b"):
        with pytest.raises(ConfigError, match="no name"):
            new_package(name, "rewards", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["llama3-brief"]
