"""docs/mixes.md is followed from top to bottom in a folder with three sources. Any number of a training stands for any
other."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pages import Page

PAGE = Page("mixes.md", measures="^llama3 data (mix-search|probe)")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    words = {
        "tales": "ship sea wind captain letter",
        "code": "def return value class item",
        "sums": "1 2 3 4 plus minus",
    }
    draw = random.Random(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for name, known in words.items():
            Path(name).mkdir()
            for number in range(40):
                lines = [" ".join(draw.choices(known.split(), k=10)) for _ in range(8)]
                Path(name, f"{number}.txt").write_text("\n".join(lines))
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_every_block_is_executed():
    assert {language for language, _ in PAGE.all_blocks} == {"console", "yaml"}
