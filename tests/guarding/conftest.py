"""Guards that are trained once, as a user trains them: by the command, from files of rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows_of_guards import LLAMA_GUARD, PROMPT_GUARD, base_model, hazard_rows, prompt_rows, train, write_jsonl

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


@pytest.fixture(scope="session")
def prompt_guard(tmp_path_factory) -> Path:
    """The folder of a trained prompt guard."""
    folder = tmp_path_factory.mktemp("prompt_guard")
    write_jsonl(folder / "rows.jsonl", prompt_rows())
    train(folder, PROMPT_GUARD)
    return folder / "runs" / "small" / "artifacts" / "prompt_guard"


@pytest.fixture(scope="session")
def llama_guard(tmp_path_factory) -> Path:
    """The folder of a trained guard of the kind of Llama Guard."""
    folder = tmp_path_factory.mktemp("llama_guard")
    write_jsonl(folder / "hazards.jsonl", hazard_rows())
    base_model(folder / "mine" / "artifacts" / "release")  # a run serves as a model does
    train(folder, LLAMA_GUARD.replace("model: base", "model: mine"))
    return folder / "runs" / "taught" / "artifacts" / "llama_guard"
