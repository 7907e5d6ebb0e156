"""docs/safety-training.md: its table is that of the code, and its blocks do on a small model what the page says.

python tests/test_safety_training_docs.py        # writes the table
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pages
import pytest
from test_recipe import write_text
from test_safety_training import write_model

from llama3.alignment.hazards import EN_DEEDS, EN_TEXTS, OTHER_DEEDS
from llama3.preflight import load_config

PAGE = pages.ROOT / "docs" / "safety-training.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page is read in: my-model and notes."""
    folder = tmp_path_factory.mktemp("page")
    write_text(folder / "notes")
    write_model(folder)
    (folder / "my-model").symlink_to((folder / "model").resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_the_table_is_up_to_date():
    assert len(pages.GENERATED.findall(TEXT)) == 1
    assert pages.refreshed(TEXT) == TEXT, "run: python tests/test_safety_training_docs.py"


def test_commands_do_what_is_shown(folder):
    code, ran = 0, []
    for language, block in BLOCKS:
        if language == "yaml":
            Path(re.match(r"# (\S+)\n", block)[1]).write_text(block)
            continue
        for command in pages.commands(block) if language == "console" else ():
            if command.line.startswith("cat "):
                Path(command.line.removeprefix("cat ")).write_text(command.shown)
                continue
            printed, code = pages.call(command.line, code)
            assert command.matches(printed, code), printed
            ran.append(command.line.split()[0])
    assert ran == ["llama3", "echo", "llama3", "llama3"]
    load_config("drawn.yaml")


def test_python_prints_what_is_shown_below_it():
    ((program, shown),) = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, str(PAGE), "exec"), {})
    assert printed.getvalue() == shown


def test_every_block_is_tested_and_counts_are_those_of_the_code():
    assert {language for language, _ in BLOCKS} == {"yaml", "console", "python", "text"}
    hazards = (*EN_DEEDS, *EN_TEXTS, *OTHER_DEEDS)
    categories, languages = {hazard.category for hazard in hazards}, {hazard.lang for hazard in hazards}
    assert (len(hazards), len(categories), len(languages)) == (115, 13, 4)
    assert "115 deeds and texts in 13 categories and four languages" in TEXT
    for other in ("safety.md", "post-training.md"):
        assert "safety-training.md" in (PAGE.parent / other).read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(pages.refreshed(TEXT), encoding="utf-8")
    print(f"{PAGE.relative_to(pages.ROOT)}: 1 table")
