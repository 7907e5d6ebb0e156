"""docs/memorisation.md is followed from top to bottom: a run with canaries, its suites, and its Python."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
import yaml
from test_recipe import write_text

from llama3.preflight import load_config
from llama3_plugins.evaluators.insecure_code import read_requests

TEXT = (pages.ROOT / "docs" / "memorisation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for language, block in BLOCKS if language == "console" for command in pages.commands(block)]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(exit code, what was printed) of every command, in the folder where they were given."""
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        for language, block in BLOCKS:
            if language == "yaml" and (named := re.match(r"# (\w+\.yaml)\n", block)):
                Path(named[1]).write_text(block)
        for command in COMMANDS:
            results.append(pages.call(command.line, 0))
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, "memorisation.md", "exec"), {})
        yield results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[command.line for command in COMMANDS])
def test_a_command_does_what_the_page_shows(done, number):
    printed, code = done[number]
    assert code == 0, printed
    said = " ".join(printed.split())
    for part in " ".join(COMMANDS[number].shown.split()).split("..."):
        assert part.strip() in said


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "yaml"])
def test_a_config_of_the_page_is_valid(done, block):
    load_config({"model": {"preset": "tiny"}, **yaml.safe_load(block)})


def test_what_the_page_counts_is_there():
    rows = read_requests()
    assert f"{len(rows)} requests for code in nine languages" in " ".join(TEXT.split())
    assert f"of which {sum(row['kind'] == 'complete' for row in rows)} give its beginning" in " ".join(TEXT.split())
    assert {language for language, _ in BLOCKS} == {"console", "python", "yaml"}
    assert len(COMMANDS) == 3
