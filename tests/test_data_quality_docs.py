"""docs/data-quality.md: its tables are those of the code, and its blocks do on a small model what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import GENERATED, Page, refreshed, write_model
from test_recipe import write_text

from llama3.config.data_quality import CLEANING
from llama3.quality.cleaning import SIGNS
from llama3.quality.semantic import CLUSTER
from llama3.tokenizer import Tokenizer

PAGE = Page("data-quality.md")


def signs(_: str) -> str:
    """What shows each sign, and its share by default."""
    rows = [f"| `{sign}` | {what} | {100 * CLEANING[sign]:g} % |" for sign, (what, _) in SIGNS.items()]
    return "\n".join(["| sign | what shows it | at most |", "|---|---|---|", *rows]) + "\n"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        write_model("my-model", Tokenizer.train(texts, 400, 16))
        return PAGE.follow()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_the_tables_are_up_to_date():
    assert len(GENERATED.findall(PAGE.text)) == 5
    assert refreshed(PAGE.text, signs=signs) == PAGE.text, "run: python tests/test_data_quality_docs.py"
    assert f"Up to {CLUSTER:,} dialogs" in " ".join(PAGE.text.split())


if __name__ == "__main__":
    PAGE.refresh(signs=signs)
