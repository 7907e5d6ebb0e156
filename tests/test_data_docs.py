"""docs/data.md: all of it is executed, in order, in an empty folder, and prints what stands there.

python tests/test_data_docs.py        # writes what commands print
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from llama3.cli import main
from llama3.preflight import load_config

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def exit_code(arguments: list[str]) -> int | str | None:
    try:
        main(arguments)
    except SystemExit as done:
        return done.code


def run(command: str) -> str:
    """What a command of the page prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as told:
        code = exit_code(shlex.split(command)[1:])
    assert not code, told.getvalue()
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def executed(text: str) -> str:
    """The page with what its blocks print, executed in the folder that is current."""
    names: dict[str, Any] = {}
    last = ""

    def block(found: re.Match[str]) -> str:
        nonlocal last
        kind, content = found.groups()
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(content, names)
            last = out.getvalue()
        elif kind == "console":
            commands = [line for line in content.splitlines() if line.startswith("$ ")]
            content = "".join(f"{line}\n{run(line.removeprefix('$ '))}" for line in commands)
        elif kind == "text":
            content = last
        elif kind == "yaml":
            Path("config.yaml").write_text(content)
            load_config("config.yaml")
        return f"```{kind}\n{content}```"

    return BLOCK.sub(block, text)


def test_the_page_says_what_happens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    assert executed(text) == text


def test_every_command_and_example_is_on_the_page():
    text = PAGE.read_text("utf-8")
    commands = "curate dedup recut inspect sample shard audit skip mix mix-search probe classify"
    for name in commands.split():
        assert f"llama3 data {name}" in text
    for path in (PAGE.parents[1] / "examples").glob("*_alone.py"):
        assert path.name in text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        PAGE.write_text(executed(PAGE.read_text("utf-8")), "utf-8")
    print(f"{PAGE.name}: written", file=sys.stderr)
