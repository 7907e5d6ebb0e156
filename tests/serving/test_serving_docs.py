"""docs/serving.md is run as printed, against a server started as it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import started

from llama3.checkpoints.weights import save_model
from llama3.inference import Llama
from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.serving.connections import MOST_CONNECTIONS, MOST_OF_A_CLIENT
from llama3.serving.forms import MOST_JUDGED
from llama3.testing.toys import toy_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def serve(model, told, *options):
    """The command of the page for another folder, at a port that is free."""
    (command,) = re.findall(rf"^\$ llama3 (serve runs/quickstart {told}.*)$", PAGE, re.MULTILINE)
    arguments = command.replace("runs/quickstart", str(model)).split()
    return started.Popen(
        [sys.executable, "-m", "llama3", *arguments, "--port", "0", *options], stderr=subprocess.PIPE, text=True
    )


def address(process):
    for line in process.stderr:
        if found := re.search(r"answers at (http://\S+)/v1", line):
            return found[1]
    raise AssertionError("it does not start")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("served") / "tiny", toy_tokenizer()
    config = ModelConfig(16, 1, 2, 2, 32, tokenizer.vocab_size, max_seq_len=1024)
    llama = Llama(init_weights(Transformer(config), 0), tokenizer)
    save_model(llama.transformer, folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def url(model):
    process = serve(model, "--name mine")
    yield address(process)
    process.terminate()
    assert process.wait(60) == 0


def test_the_blocks_in_python_run_in_order(url, model):
    scope = {}
    assert len(blocks("python")) >= 6
    for block in blocks("python"):
        exec(block.replace(ADDRESS, url).replace("runs/quickstart", str(model)), scope)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("block", blocks("sh"))
def test_the_blocks_for_a_shell_run(url, block):
    done = subprocess.run(["sh", "-ec", block.replace(ADDRESS, url)], capture_output=True, text=True, check=True)
    assert "error" not in done.stdout
    if "chat" in block:
        assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("told", ["--host", "--speculative", "--kv-cache-dtype", "--tp"])
def test_the_other_servers_start_as_printed(model, tmp_path, monkeypatch, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.txt").write_text("a-key-of-the-tests\n")
    process = serve(model, told)
    try:
        assert address(process)
    finally:
        process.terminate()
    assert process.wait(60) == 0


def test_the_file_of_requests_is_answered_as_printed(model, tmp_path):
    (requests,), (shown,) = blocks("json"), blocks("text")
    (command, *lines) = next(block for block in blocks("console") if "llama3 batch" in block).splitlines()
    (tmp_path / "prompts.jsonl").write_text(requests)
    arguments = command.removeprefix("$ llama3 ").replace("runs/quickstart", str(model)).split()
    program = [sys.executable, "-m", "llama3", *arguments]
    done = started.run(program, cwd=tmp_path, check=True)
    assert done.stdout.startswith("\n".join(lines[1:-1])), done.stdout
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [json.loads(line)["custom_id"] for line in requests.splitlines()]
    assert sorted(answer["custom_id"] for answer in answers) == sorted(asked)
    written = json.loads(shown.replace("{...}", "{}"))
    assert all((row.keys(), row["response"].keys()) == (written.keys(), written["response"].keys()) for row in answers)


def test_the_bounds_are_those_of_the_code():
    for bound in (MOST_CONNECTIONS, MOST_OF_A_CLIENT, MOST_JUDGED):
        assert f"{bound:,}" in PAGE
