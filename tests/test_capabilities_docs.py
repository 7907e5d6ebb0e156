"""docs/capabilities.md: its tables are those of the code, and its blocks do on a small model what the page says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pages import Page, refreshed, write_model
from test_recipe import write_text

from llama3.plugins.registry import discover
from llama3.tokenizer import Tokenizer

PAGE = Page("capabilities.md")
PORT = "18347"
"""Of the page's server, which somebody else may hold here: another stands for it."""


def recipes(_: str) -> str:
    """The built-in recipes, and what each needs."""
    rows = [
        f"| `{row.name}` | {row.summary} | {', '.join(sorted(discover().spec('capabilities', row.name).needs))} |"
        for row in discover().list("capabilities")
    ]
    return "\n".join(["| recipe | makes | needs |", "|---|---|---|", *rows]) + "\n"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        write_model("my-model", Tokenizer.train(texts, 400, 16), max_seq_len=512)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        blocks = [(language, block.replace(PORT, port)) for language, block in PAGE.all_blocks]
        patch.setattr(PAGE, "all_blocks", blocks)
        followed = PAGE.follow()
        PAGE.names["page"] = Path("runs/skills/report.html").read_text()
        yield followed
        PAGE.names["server"].shutdown()
        PAGE.names["server"].server_close()


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_the_report_tells_what_was_made(done):
    assert "What capability recipes made" in PAGE.names["page"]


def test_the_tables_are_up_to_date():
    assert refreshed(PAGE.text, recipes=recipes) == PAGE.text, "run: python tests/test_capabilities_docs.py"
    for name in discover().names("capabilities"):
        assert f"**{name}.**" in PAGE.text or f"### {name}" in PAGE.text, f"{name} is not told of"


if __name__ == "__main__":
    PAGE.path.write_text(refreshed(PAGE.text, recipes=recipes), encoding="utf-8")
    print(f"docs/{PAGE.name}: its tables")
