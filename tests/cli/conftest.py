"""The program in this process."""

from __future__ import annotations

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
