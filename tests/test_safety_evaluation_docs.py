"""docs/safety-evaluation.md: its blocks do on a small model what the page says, in the order of the page.

`...` in shown output stands for anything, and any number for any other where a model is measured. What `llama3 judge`
prints of rows that stand in the page is compared figure by figure.
"""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest
import yaml
from test_recipe import write_text

from llama3.model.build import init_weights
from llama3.model.config import ModelConfig
from llama3.model.transformer import Transformer
from llama3.preflight import load_config
from llama3.tokenizer import Tokenizer
from llama3.training.placed import PlacedModel
from llama3.training.stage import save_checkpoint

TEXT = (Path(__file__).parents[1] / "docs" / "safety-evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [command for language, block in BLOCKS if language == "console" for command in pages.commands(block)]


def matches(command, printed, code):
    """Whether what is shown was printed, in this order."""
    is_exact = command.line.startswith("llama3 judge")
    if command.line.startswith("echo"):
        return printed == command.shown
    shown = " ".join(command.shown.split()).split("...")
    said, place = " ".join(printed.split()), 0
    for part in map(str.strip, shown):
        wanted = re.escape(part)
        found = re.search(wanted if is_exact else re.sub(r"\d+\\\.\d", r"\\d+\\.\\d", wanted), said[place:])
        if found is None:
            return False
        place += found.end()
    return code in (0, 5)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        write_text(Path("notes"))
        texts = [path.read_text() for path in sorted(Path("notes").iterdir())]
        config = ModelConfig(dim=32, n_layers=1, n_heads=2, n_kv_heads=1, ffn_dim=64, vocab_size=400, max_seq_len=256)
        model = PlacedModel(init_weights(Transformer(config), 1))
        save_checkpoint(Path("my-model"), model, Tokenizer.train(texts, 400, 16), {"made": "here"})
        for language, block in BLOCKS:
            if language == "yaml" and (named := re.match(r"# (\w+\.yaml)\n", block)):
                Path(named[1]).write_text(block)
        code = 0
        for command in COMMANDS:
            if command.line.startswith("cat "):
                Path(command.line.removeprefix("cat ")).write_text(command.shown)
                continue
            printed, code = pages.call(command.line, code)
            results.append((command, printed, code))
    return results


RUN = [command for command in COMMANDS if not command.line.startswith("cat ")]


@pytest.mark.parametrize("number", range(len(RUN)), ids=[command.line for command in RUN])
def test_a_command_does_what_the_page_shows(done, number):
    command, printed, code = done[number]
    assert matches(command, printed, code), f"exit code {code}, printed:\n{printed}"


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "yaml"])
def test_a_config_of_the_page_is_valid(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(Path("notes"))
    load_config({**yaml.safe_load(block), "model": {"preset": "tiny"}})


def test_other_figures_of_a_judge_are_told_apart(done):
    """The comparison of the page can fail: one digit of what was printed is another one."""
    (judged,) = (row for row in done if row[0].line.startswith("llama3 judge"))
    command, printed, code = judged
    assert matches(command, printed, code)
    for figure in ("100.0 %", "50.0 %", "0.50"):
        assert figure in printed
        assert not matches(command, printed.replace(figure, figure.replace("0", "9", 1)), code)


def test_blocks_are_configs_or_commands():
    assert {language for language, _ in BLOCKS} == {"console", "yaml"}
    assert len(RUN) == 6
