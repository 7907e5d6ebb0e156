"""What stands at the front door: pages that newcomers look for, a CI matrix that says what is promised, hooks that call
tools of the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    folder, text = (ROOT / page).parent, (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert target.startswith("https://") or (folder / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_what_a_page_names_is_there(page):
    text = (ROOT / page).read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^\$ make ([\w-]+)|`make ([\w-]+)`", text, re.MULTILINE):
        assert re.search(rf"^{target[0] or target[1]}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`((?:tests|docs|llama3|core-rs|config|plugins|scaffold|testing)/[\w./]*)`", text):
        homes = (ROOT / path, ROOT / "llama3" / path)
        assert any(home.exists() for home in homes), path


def test_the_order_of_packages_is_that_of_the_test():
    from test_imports import ORDER

    shown = re.search(r"```text\n(errors .*?)```", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.DOTALL)[1]
    assert [name for name in ORDER if name in shown.split()] == [
        name for name in shown.split() if name not in ("...", "(the", "surface)")
    ]


def test_ci_covers_what_the_project_promises():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    pythons = jobs["installed"]["strategy"]["matrix"]["python"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert pythons == [oldest, "3.12", "3.13", "3.14"]
    wheels = jobs["wheel"]["strategy"]["matrix"]["include"]
    assert {row["manylinux"] for row in wheels if row["os"].startswith("ubuntu")} == {"manylinux_2_28"}
    assert any(row["os"].startswith("macos") for row in wheels)
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert {"make lint", "make test"} <= set(steps)
    features = (ROOT / "core-rs" / "Cargo.toml").read_text()
    assert f"abi3-py{oldest.replace('.', '')}" in features
    assert any("abi3" in step for step in steps)
    for named in re.findall(r"tests/[\w/.]+", " ".join(steps)):
        assert (ROOT / named).exists(), named


def test_hooks_before_a_commit_are_local_and_call_what_lint_calls():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    parts = re.findall(r"^lint-\w+:.*?(?=^\S)", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    lint = "".join(parts)
    assert "mypy.stubtest llama3._core" in lint
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert tool in lint or tool == "python"
