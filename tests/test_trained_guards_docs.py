"""docs/trained-guards.md is followed from top to bottom in a folder with `my-model`; its tables are generated.

Refresh them with: python tests/test_trained_guards_docs.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from pages import GENERATED, Page, refreshed

sys.path.insert(0, str(Path(__file__).parent / "guarding"))
from rows_of_guards import base_model

from llama3.config import load

PAGE = Page(
    "trained-guards.md",
    measures="^llama3 guard",  # what a trained guard says has figures of its own
    read_yaml=lambda block: load(yaml.safe_load(block), environ={}),
)


def test_the_tables_are_up_to_date():
    assert len(GENERATED.findall(PAGE.text)) == 6
    assert refreshed(PAGE.text) == PAGE.text, "run: python tests/test_trained_guards_docs.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        base_model(Path("my-model"))
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


if __name__ == "__main__":
    PAGE.refresh()
