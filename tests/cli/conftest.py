"""The program in this process."""

from __future__ import annotations

import json

import pytest

from llama3.cli import app as cli


@pytest.fixture
def llama3(capsys):
    """Runs a command: (exit code, stdout, stderr)."""

    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(map(str, args)))
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def ask(llama3):
    """The JSON of a command of `llama3 data` that does its work."""

    def call(*args) -> dict:
        code, printed, told = llama3("data", *args, "--json")
        assert code == 0, told
        return json.loads(printed)

    return call
