"""docs/classifiers.md is followed from top to bottom: its rows train the classifier whose card it shows, its configs
are configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import Page
from typer.main import get_command

from llama3.cli.app import app
from llama3.preflight import load_config

pytest.importorskip("fasttext")

PAGE = Page("classifiers.md", measures="^llama3 data classify")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        Path("texts.jsonl").write_text('{"text": "ship"}\n')
        followed = PAGE.follow()
        for name in ("judged.yaml", "cascade.yaml"):
            load_config(name)
        return followed


@PAGE.cases()
def test_a_command_does_what_the_page_shows(done, number):
    done[number].check()


def test_what_is_only_shown_is_a_command():
    for shown in PAGE.blocks("bash"):
        words = shown.replace("\\\n", " ").split()
        command = get_command(app)
        for name in words[1:4]:
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
